//! Names into keys, `after` into edges, edges into ranks; cycles are refused by name.

use super::{Key, Kind, Machine, Node, Policy, State, Strategy, NODES_MAX, ROOT};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A child or group before it has a place in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) policy: Policy,
    pub(crate) after: Vec<String>,
    pub(crate) members: Vec<Blueprint>,
}

/// Why a set of children cannot form a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Two siblings have one name.
    #[error("two children are named `{id}`; names must be unique among siblings")]
    Duplicate {
        /// The full id.
        id: String,
    },
    /// `after` names nothing that exists.
    #[error("`{child}` starts after `{after}`, which does not exist; known here: {known}")]
    UnknownDependency {
        /// The child whose `after` is wrong.
        child: String,
        /// The name that was not found.
        after: String,
        /// Names that would resolve.
        known: String,
    },
    /// Start order has no beginning.
    #[error("start order is a cycle: {}", .path.join(" -> "))]
    Cycle {
        /// The ids on the cycle, each starting after the next; first and last are the same.
        path: Vec<String>,
    },
    /// A name that could not be told from a path, a label or a log field.
    #[error("`{name}` is no child name; use 1 to 128 of A-Z a-z 0-9 . _ -")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// Groups are nested too deeply to be meant.
    #[error("`{id}` lies more than {limit} groups deep; nest less")]
    TooDeep {
        /// The full id.
        id: String,
        /// The limit.
        limit: usize,
    },
    /// A watchdog that is always late.
    #[error("`{child}` has a watchdog interval of zero; give it the longest time between two heartbeats")]
    ZeroWatchdog {
        /// The child.
        child: String,
    },
    /// The tree is full.
    #[error("the tree holds {limit} children, which is its limit")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The kernel is shutting down and starts nothing any more.
    #[error("the kernel is shutting down")]
    ShuttingDown,
}

/// More levels than any service has; what walks the tree may recurse by level.
const DEPTH_MAX: usize = 32;

/// A point in time of one new node: when it may start, when it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Start(usize),
    Ready(usize),
}

struct Fresh<'a> {
    blueprint: &'a Blueprint,
    id: Arc<str>,
    parent: Option<usize>,
    after: Vec<Target>,
    members: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Target {
    New(usize),
    Existing(Key),
}

impl Machine {
    pub(super) fn insert_graph(
        &mut self,
        blueprints: Vec<Blueprint>,
        initial: bool,
    ) -> Result<Vec<Key>, GraphError> {
        let mut fresh: Vec<Fresh<'_>> = Vec::new();
        for blueprint in &blueprints {
            flatten(blueprint, None, "", &mut fresh)?;
        }
        if self.nodes.len() - self.free.len() + fresh.len() > NODES_MAX {
            return Err(GraphError::TooMany { limit: NODES_MAX });
        }
        let mut names: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (index, node) in fresh.iter().enumerate() {
            if self.ids.contains_key(&node.id) || names.insert(node.id.clone(), index).is_some() {
                return Err(GraphError::Duplicate {
                    id: node.id.to_string(),
                });
            }
        }
        self.resolve(&mut fresh, &names)?;
        let ranks = self.rank(&fresh)?;
        Ok(self.link(fresh, &ranks, initial))
    }

    /// `after` names a sibling, else something beside an enclosing group, else a full id.
    fn resolve(
        &self,
        fresh: &mut [Fresh<'_>],
        names: &BTreeMap<Arc<str>, usize>,
    ) -> Result<(), GraphError> {
        for node in fresh.iter_mut() {
            for name in &node.blueprint.after {
                let found = scopes(&node.id).find_map(|scope| {
                    let candidate = join(scope, name);
                    if let Some(new) = names.get(candidate.as_str()) {
                        return Some(Target::New(*new));
                    }
                    // What is on its way out has no end to wait for.
                    let key = *self.ids.get(candidate.as_str())?;
                    (!self.is_being_removed(key)).then_some(Target::Existing(key))
                });
                let Some(target) = found else {
                    let mut known: Vec<&str> = names
                        .keys()
                        .chain(self.ids.keys())
                        .map(|known| &**known)
                        .filter(|known| *known != &*node.id)
                        .collect();
                    known.sort_unstable();
                    known.truncate(12);
                    let known = if known.is_empty() {
                        "nothing".to_owned()
                    } else {
                        known.join(", ")
                    };
                    return Err(GraphError::UnknownDependency {
                        child: node.id.to_string(),
                        after: name.clone(),
                        known,
                    });
                };
                node.after.push(target);
            }
        }
        // In a RestForOne group each member leans on the one before it; so it also starts after it.
        let mut chained: Vec<(usize, usize)> = Vec::new();
        for group in fresh.iter() {
            if group.blueprint.policy.strategy == Strategy::RestForOne {
                chained.extend(group.members.windows(2).map(|pair| (pair[1], pair[0])));
            }
        }
        for (member, before) in chained {
            fresh[member].after.push(Target::New(before));
        }
        Ok(())
    }

    /// Ranks by longest path over start and ready points; a point met again on its own path is a cycle.
    fn rank(&self, fresh: &[Fresh<'_>]) -> Result<Vec<u32>, GraphError> {
        let before = |point: Point| -> (Vec<Point>, u32) {
            match point {
                Point::Ready(index) if fresh[index].blueprint.kind == Kind::Group => {
                    let mut points: Vec<Point> = fresh[index]
                        .members
                        .iter()
                        .map(|m| Point::Ready(*m))
                        .collect();
                    points.push(Point::Start(index));
                    (points, 0)
                }
                Point::Ready(index) => (vec![Point::Start(index)], 0),
                Point::Start(index) => {
                    let mut floor = 0;
                    let mut points: Vec<Point> = fresh[index]
                        .parent
                        .iter()
                        .map(|p| Point::Start(*p))
                        .collect();
                    for target in &fresh[index].after {
                        match target {
                            Target::New(other) => points.push(Point::Ready(*other)),
                            Target::Existing(key) => floor = floor.max(self.ready_rank(*key)),
                        }
                    }
                    (points, floor)
                }
            }
        };
        let step = |point: Point| match point {
            Point::Ready(index) => u32::from(fresh[index].blueprint.kind != Kind::Group),
            Point::Start(_) => 0,
        };
        let slot = |point: Point| match point {
            Point::Start(index) => 2 * index,
            Point::Ready(index) => 2 * index + 1,
        };
        let mut value: Vec<Option<u32>> = vec![None; 2 * fresh.len()];
        let mut on_path = vec![false; 2 * fresh.len()];
        for root in 0..fresh.len() {
            let mut path: Vec<(Point, Vec<Point>, u32)> = Vec::new();
            let start = Point::Ready(root);
            if value[slot(start)].is_some() {
                continue;
            }
            let (points, floor) = before(start);
            on_path[slot(start)] = true;
            path.push((start, points, floor));
            while let Some((point, todo, best)) = path.last_mut() {
                let Some(next) = todo.pop() else {
                    value[slot(*point)] = Some(*best + step(*point));
                    on_path[slot(*point)] = false;
                    let reached = *best + step(*point);
                    path.pop();
                    if let Some((_, _, best)) = path.last_mut() {
                        *best = (*best).max(reached);
                    }
                    continue;
                };
                if let Some(known) = value[slot(next)] {
                    *best = (*best).max(known);
                } else if on_path[slot(next)] {
                    return Err(cycle(fresh, &path, next));
                } else {
                    let (points, floor) = before(next);
                    on_path[slot(next)] = true;
                    path.push((next, points, floor));
                }
            }
        }
        Ok((0..fresh.len())
            .map(|index| value[2 * index].unwrap_or(0))
            .collect())
    }

    /// Most children have the same policy: they share it.
    fn shared(&mut self, policy: &Policy) -> Arc<Policy> {
        if *self.policy != *policy {
            self.policy = Arc::new(policy.clone());
        }
        self.policy.clone()
    }

    /// The rank above everything that must be ready for `key` to be ready.
    fn ready_rank(&self, key: Key) -> u32 {
        let node = self.node(key);
        if node.kind != Kind::Group {
            return node.rank + 1;
        }
        node.members
            .iter()
            .map(|m| self.ready_rank(*m))
            .max()
            .unwrap_or(node.rank)
            .max(node.rank)
    }

    fn link(&mut self, fresh: Vec<Fresh<'_>>, ranks: &[u32], initial: bool) -> Vec<Key> {
        let mut keys = Vec::with_capacity(fresh.len());
        for (index, new) in fresh.iter().enumerate() {
            let parent = new.parent.map_or(ROOT, |p: usize| keys[p]);
            let blueprint = new.blueprint;
            let mut node = Node::new(
                new.id.clone(),
                blueprint.kind,
                Some(parent),
                self.shared(&blueprint.policy),
                initial,
            );
            node.rank = ranks[index];
            node.since = self.now;
            let key = match self.free.pop() {
                Some(key) => {
                    self.nodes[key as usize] = node;
                    key
                }
                None => {
                    self.nodes.push(node);
                    (self.nodes.len() - 1) as Key
                }
            };
            if blueprint.kind != Kind::Group {
                self.counts[State::Held.index()] += 1;
            }
            self.ids.insert(new.id.clone(), key);
            let group = self.node_mut(parent);
            let place = group.members.len();
            group.members.push(key);
            group.unsatisfied += 1;
            self.node_mut(key).place = place;
            keys.push(key);
        }
        for (index, new) in fresh.iter().enumerate() {
            for target in &new.after {
                let dep = match target {
                    Target::New(other) => keys[*other],
                    Target::Existing(key) => *key,
                };
                self.node_mut(keys[index]).after.push(dep);
                self.node_mut(dep).dependants.insert(keys[index]);
            }
        }
        keys
    }

    /// Takes a node that does not run out of the tree.
    pub(super) fn forget(&mut self, key: Key) {
        let node = self.node(key);
        if node.state == State::Gone {
            return;
        }
        let ran = node.kind != Kind::Group && node.generation > 0;
        let (id, after, parent) = (node.id.clone(), node.after.clone(), node.parent);
        self.removed += u64::from(ran);
        self.set_state(key, State::Gone);
        self.counts[State::Gone.index()] = 0;
        for dep in after {
            self.node_mut(dep).dependants.remove(&key);
        }
        if let Some(parent) = parent {
            let place = self.node(key).place;
            let group = self.node_mut(parent);
            if parent == ROOT {
                // Order means nothing among the children of the root.
                if group.members.get(place) == Some(&key) {
                    group.members.swap_remove(place);
                }
                if let Some(moved) = group.members.get(place).copied() {
                    self.node_mut(moved).place = place;
                }
            } else {
                group.members.retain(|member| *member != key);
            }
            if !self.node(key).satisfied {
                self.node_mut(parent).unsatisfied -= 1;
            }
            self.refresh_group(parent);
        }
        self.ids.remove(&id);
        self.free.push(key);
        self.node_mut(key).parent = None;
        self.effects.push(super::Effect::Removed { key, id });
    }
}

fn flatten<'a>(
    blueprint: &'a Blueprint,
    parent: Option<usize>,
    scope: &str,
    into: &mut Vec<Fresh<'a>>,
) -> Result<(), GraphError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name = &blueprint.name;
    if name.is_empty() || name.len() > 128 || !name.chars().all(legal) {
        return Err(GraphError::BadName { name: name.clone() });
    }
    let id: Arc<str> = Arc::from(join(scope, name));
    if id.matches('/').count() >= DEPTH_MAX {
        return Err(GraphError::TooDeep {
            id: id.to_string(),
            limit: DEPTH_MAX,
        });
    }
    if blueprint
        .policy
        .heartbeat
        .is_some_and(|interval| interval.is_zero())
    {
        return Err(GraphError::ZeroWatchdog {
            child: id.to_string(),
        });
    }
    let index = into.len();
    into.push(Fresh {
        blueprint,
        id: id.clone(),
        parent,
        after: Vec::new(),
        members: Vec::new(),
    });
    for member in &blueprint.members {
        let at = into.len();
        into[index].members.push(at);
        flatten(member, Some(index), &id, into)?;
    }
    Ok(())
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}/{name}")
    }
}

/// The scopes a name in `id` may mean, innermost first, the root last.
fn scopes(id: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(id);
    std::iter::from_fn(move || {
        let current = rest?;
        let scope = current.rfind('/').map(|at| &current[..at]);
        rest = scope;
        Some(scope.unwrap_or(""))
    })
}

fn cycle(fresh: &[Fresh<'_>], path: &[(Point, Vec<Point>, u32)], again: Point) -> GraphError {
    let owner = |point: &Point| match point {
        Point::Start(index) | Point::Ready(index) => *index,
    };
    let from = path
        .iter()
        .position(|(point, ..)| *point == again)
        .unwrap_or(0);
    let mut ids: Vec<String> = Vec::new();
    for index in path[from..]
        .iter()
        .map(|(point, ..)| owner(point))
        .chain([owner(&again)])
    {
        let id = fresh[index].id.to_string();
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }
    if ids.len() == 1 {
        ids.push(ids[0].clone());
    }
    GraphError::Cycle { path: ids }
}
