%% The OTP rows: a supervisor with plain linked processes, the least a supervised child can be.
%% Prints one number per line, in the order the Rust side expects.
-module(ron_bench_otp).
-behaviour(supervisor).
-export([main/1, init/1, start_crashing/3, start_waiting/3]).

%% A restart scans the restarts of the period, so a supervisor gets no more than this many.
-define(BATCH, 100).

main([What, Count]) ->
    logger:set_primary_config(level, none),
    process_flag(trap_exit, true),
    run(What, list_to_integer(Count)),
    halt(0).

run("children", Count) ->
    _ = start_and_drain(Count),
    {Start, Bytes, Drain} = start_and_drain(Count),
    print([Start, Bytes, Drain]);
run(How, Count) ->
    _ = crashes(How, ?BATCH),
    Sorted = lists:sort(lists:append([crashes(How, ?BATCH) || _ <- lists:seq(1, Count div ?BATCH)])),
    print([lists:nth(max(1, (length(Sorted) * P + 99) div 100), Sorted) || P <- [50, 99]]).

print(Numbers) ->
    [io:format("~w~n", [Number]) || Number <- Numbers].

init({crashing, How, Driver, Struck}) ->
    Child = #{id => child, start => {?MODULE, start_crashing, [How, Driver, Struck]}},
    {ok, {#{strategy => one_for_one, intensity => 1000000, period => 1}, [Child]}};
init({waiting, Count, Driver, Running}) ->
    Children = [#{id => Id, start => {?MODULE, start_waiting, [Count, Driver, Running]}, shutdown => 2000}
                || Id <- lists:seq(1, Count)],
    {ok, {#{strategy => one_for_one}, Children}}.

%% Latencies, in ns, from the crash to the message that the replacement handles.
crashes(How, Count) ->
    Struck = atomics:new(1, []),
    {ok, Supervisor} = supervisor:start_link(?MODULE, {crashing, How, self(), Struck}),
    Latencies = [strike() || _ <- lists:seq(1, Count)],
    stop(Supervisor),
    receive {handled, _, _} -> ok after 0 -> ok end,
    Latencies.

strike() ->
    receive {handled, Child, _} -> Child ! poison end,
    receive {handled, Next, Latency} -> self() ! {handled, Next, 0}, Latency end.

start_crashing(How, Driver, Struck) ->
    {ok, spawn_link(fun() -> self() ! probe, crashing(How, Driver, Struck) end)}.

crashing(How, Driver, Struck) ->
    receive
        probe ->
            Now = erlang:monotonic_time(nanosecond),
            Driver ! {handled, self(), Now - atomics:get(Struck, 1)},
            crashing(How, Driver, Struck);
        poison ->
            atomics:put(Struck, 1, erlang:monotonic_time(nanosecond)),
            case How of
                "exit" -> exit(boom);
                "error" -> error(badarg)
            end
    end.

start_and_drain(Count) ->
    garbage_collect(),
    Before = erlang:memory(processes),
    Running = atomics:new(1, []),
    Began = erlang:monotonic_time(nanosecond),
    {ok, Supervisor} = supervisor:start_link(?MODULE, {waiting, Count, self(), Running}),
    receive all_running -> ok end,
    Started = erlang:monotonic_time(nanosecond),
    Bytes = (erlang:memory(processes) - Before) / Count,
    Drain = erlang:monotonic_time(nanosecond),
    stop(Supervisor),
    Ended = erlang:monotonic_time(nanosecond),
    {(Started - Began) / 1.0e6, Bytes, (Ended - Drain) / 1.0e6}.

start_waiting(Count, Driver, Running) ->
    {ok, spawn_link(fun() ->
        case atomics:add_get(Running, 1, 1) of
            Count -> Driver ! all_running;
            _ -> ok
        end,
        receive never -> ok end
    end)}.

stop(Supervisor) ->
    exit(Supervisor, shutdown),
    receive {'EXIT', Supervisor, _} -> ok end.
