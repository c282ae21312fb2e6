-- Of this schema.
CREATE TABLE version (version integer NOT NULL);

-- What was accepted, in order. Hashes are 64 hexadecimal digits.
CREATE TABLE intents (
  seq bigint PRIMARY KEY CHECK (seq > 0),
  run_key text COLLATE "C" NOT NULL UNIQUE CHECK (run_key ~ '^[0-9a-f]{64}$'),
  tenant text COLLATE "C" NOT NULL CHECK (length(tenant) BETWEEN 1 AND 128),
  epoch_id text COLLATE "C" NOT NULL CHECK (length(epoch_id) BETWEEN 1 AND 128),
  commitment text COLLATE "C" NOT NULL CHECK (commitment ~ '^[0-9a-f]{64}$'),
  funding_account text COLLATE "C" NOT NULL CHECK (length(funding_account) BETWEEN 1 AND 128),
  total numeric(39, 0) NOT NULL CHECK (total > 0),
  -- All totals up to this one, itself included.
  paid numeric(39, 0) NOT NULL CHECK (paid >= total),
  -- The root of the entry before, and that of this.
  prev text COLLATE "C" NOT NULL UNIQUE CHECK (prev ~ '^[0-9a-f]{64}$'),
  root text COLLATE "C" NOT NULL UNIQUE CHECK (root ~ '^[0-9a-f]{64}$'),
  UNIQUE (tenant, epoch_id)
);

CREATE INDEX intents_funding ON intents (funding_account);

-- What each of them credits.
CREATE TABLE postings (
  seq bigint NOT NULL REFERENCES intents,
  account text COLLATE "C" NOT NULL CHECK (length(account) BETWEEN 1 AND 128),
  amount numeric(39, 0) NOT NULL CHECK (amount > 0),
  PRIMARY KEY (seq, account)
);

CREATE INDEX postings_account ON postings (account);

CREATE FUNCTION is_followed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.seq <> 1 AND NOT EXISTS (SELECT 1 FROM intents
      WHERE seq = NEW.seq - 1 AND root = NEW.prev AND paid + NEW.total = NEW.paid) THEN
    RAISE EXCEPTION 'entry %: it does not follow the one before it', NEW.seq USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER intents_follow AFTER INSERT ON intents
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION is_followed();

CREATE FUNCTION is_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.total IS DISTINCT FROM (SELECT sum(amount) FROM postings WHERE seq = NEW.seq) THEN
    RAISE EXCEPTION 'entry %: what it credits is not what it takes', NEW.seq USING ERRCODE = 'integrity_constraint_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER intents_balance AFTER INSERT ON intents
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION is_balanced();

CREATE FUNCTION is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the journal is only appended to' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER intents_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON intents
  FOR EACH STATEMENT EXECUTE FUNCTION is_kept();
CREATE TRIGGER postings_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON postings
  FOR EACH STATEMENT EXECUTE FUNCTION is_kept();
