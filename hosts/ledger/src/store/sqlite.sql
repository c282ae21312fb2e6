-- What was accepted, in order. Hashes are 64 hexadecimal digits, amounts decimal: SQLite has no integers of 128 bits.
CREATE TABLE intents (
  seq INTEGER PRIMARY KEY CHECK (seq > 0),
  run_key TEXT NOT NULL UNIQUE CHECK (length(run_key) = 64),
  tenant TEXT NOT NULL CHECK (length(tenant) BETWEEN 1 AND 128),
  epoch_id TEXT NOT NULL CHECK (length(epoch_id) BETWEEN 1 AND 128),
  commitment TEXT NOT NULL CHECK (length(commitment) = 67),
  funding_account TEXT NOT NULL CHECK (length(funding_account) BETWEEN 1 AND 128),
  total TEXT NOT NULL CHECK (total = '0' OR total GLOB '[1-9]*' AND total NOT GLOB '*[^0-9]*'),
  -- [["account","amount"],...], in the order of the accounts.
  postings TEXT NOT NULL CHECK (json_array_length(postings) >= 0),
  -- All totals up to this one, itself included.
  paid TEXT NOT NULL CHECK (paid = '0' OR paid GLOB '[1-9]*' AND paid NOT GLOB '*[^0-9]*'),
  -- The root of the entry before, and that of this.
  prev TEXT NOT NULL CHECK (length(prev) = 64),
  root TEXT NOT NULL CHECK (length(root) = 64),
  UNIQUE (tenant, epoch_id)
) STRICT;

-- What each of them credits, for people.
CREATE VIEW postings AS
  SELECT seq, tenant, epoch_id, json_extract(value, '$[0]') AS account, json_extract(value, '$[1]') AS amount
  FROM intents, json_each(intents.postings);

CREATE TRIGGER intents_follow BEFORE INSERT ON intents
WHEN NEW.seq <> 1 AND NOT EXISTS (SELECT 1 FROM intents WHERE seq = NEW.seq - 1 AND root = NEW.prev)
BEGIN SELECT RAISE(ABORT, 'an entry follows the one before it'); END;

CREATE TRIGGER intents_stay BEFORE UPDATE ON intents
BEGIN SELECT RAISE(ABORT, 'the journal is only appended to'); END;
CREATE TRIGGER intents_are_kept BEFORE DELETE ON intents
BEGIN SELECT RAISE(ABORT, 'the journal is only appended to'); END;
