-- Of this schema.
CREATE TABLE version (version integer NOT NULL);

-- What a list [["account","amount"],...] comes to; nothing where an amount is not above 0.
CREATE FUNCTION credited(postings jsonb) RETURNS numeric LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT CASE WHEN coalesce(bool_and((posting->>1)::numeric > 0), true) THEN coalesce(sum((posting->>1)::numeric), 0) END
  FROM jsonb_array_elements(postings) AS posting
$$;

-- What was accepted, in order. Hashes are 64 hexadecimal digits.
CREATE TABLE intents (
  seq bigint PRIMARY KEY CHECK (seq > 0),
  run_key text COLLATE "C" NOT NULL UNIQUE CHECK (run_key ~ '^[0-9a-f]{64}$'),
  tenant text COLLATE "C" NOT NULL CHECK (length(tenant) BETWEEN 1 AND 128),
  epoch_id text COLLATE "C" NOT NULL CHECK (length(epoch_id) BETWEEN 1 AND 128),
  commitment text COLLATE "C" NOT NULL CHECK (commitment ~ '^b3:[0-9a-f]{64}$'),
  funding_account text COLLATE "C" NOT NULL CHECK (length(funding_account) BETWEEN 1 AND 128),
  total numeric(39, 0) NOT NULL CHECK (total >= 0),
  -- In the order of the accounts.
  postings jsonb NOT NULL,
  -- All totals up to this one, itself included.
  paid numeric(39, 0) NOT NULL CHECK (paid >= total),
  -- The root of the entry before, and that of this.
  prev text COLLATE "C" NOT NULL CHECK (prev ~ '^[0-9a-f]{64}$'),
  root text COLLATE "C" NOT NULL CHECK (root ~ '^[0-9a-f]{64}$'),
  UNIQUE (tenant, epoch_id),
  -- Double entry.
  CONSTRAINT intents_balance CHECK (credited(postings) IS NOT DISTINCT FROM total)
);

-- What each of them credits, for people.
CREATE VIEW postings AS
  SELECT seq, tenant, epoch_id, posting->>0 AS account, (posting->>1)::numeric AS amount
  FROM intents, jsonb_array_elements(intents.postings) AS posting;

CREATE FUNCTION is_followed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.seq <> 1 AND NOT EXISTS (SELECT 1 FROM intents
      WHERE seq = NEW.seq - 1 AND root = NEW.prev AND paid + NEW.total = NEW.paid) THEN
    RAISE EXCEPTION 'entry %: it does not follow the one before it', NEW.seq USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER intents_follow AFTER INSERT ON intents FOR EACH ROW EXECUTE FUNCTION is_followed();

CREATE FUNCTION is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the journal is only appended to' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER intents_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON intents
  FOR EACH STATEMENT EXECUTE FUNCTION is_kept();
