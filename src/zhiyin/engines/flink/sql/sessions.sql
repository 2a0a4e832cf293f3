-- sessions: when users were active, in pieces from which whole sessions are put together when they are read.
--
-- Input   events: the log. t is when an event happened by the clock that is behind: LEAST(time, received).
-- Output  sessions: a row for each window of a second, user and bucket that had events.
--           bucket  FLOOR(t / gap): two events of one bucket are less than a gap apart, so of one session
--           first   MIN(t)
--           last    MAX(t)
--           n       number of events
--           seq     MIN(seq), by which rows of users that were forgotten are known
--         Buckets that follow each other are one session where the first event of the later one comes less than a gap
--         after the last event of the earlier one.
-- Order   Minimum, maximum and count of parts are those of the whole in any order: an event is never late. A window
--         of event time that closes (SESSION in SQL) would drop what comes after.

CREATE TEMPORARY TABLE events (
  seq BIGINT,
  `user` STRING,
  `time` BIGINT,
  received BIGINT
) WITH (${events_source});

CREATE TEMPORARY TABLE sessions (
  `user` STRING,
  bucket BIGINT,
  `first` BIGINT,
  `last` BIGINT,
  n BIGINT,
  seq BIGINT
) WITH (${sessions_sink});

-- MOD of Flink has the sign of the dividend; added up twice it is the distance to the bucket's start also before 1970.
CREATE TEMPORARY VIEW timed_events AS
SELECT
  seq,
  `user`,
  LEAST(`time`, received) AS t,
  MOD(MOD(LEAST(`time`, received), ${gap}) + ${gap}, ${gap}) AS elapsed,
  PROCTIME() AS arrived
FROM events;

INSERT INTO sessions
SELECT
  `user`,
  (t - elapsed) / ${gap} AS bucket,
  MIN(t) AS `first`,
  MAX(t) AS `last`,
  COUNT(*) AS n,
  MIN(seq) AS seq
FROM TABLE(TUMBLE(TABLE timed_events, DESCRIPTOR(arrived), INTERVAL '1' SECOND))
GROUP BY window_start, window_end, `user`, (t - elapsed) / ${gap};
