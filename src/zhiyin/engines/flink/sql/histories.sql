-- histories: what each user did. Who reads keeps of a user the events of the highest seq, as many as a history has.
--
-- Input   events: the log.
-- Output  histories: a row for each window of a second and user that had events.
--           events  those events, in no order: seq, id, item, time, kind, value, list_id
-- Order   A history is a set of events, each known by its id, and which of them are kept follows from seq alone.

CREATE TEMPORARY TABLE events (
  seq BIGINT,
  id STRING,
  `user` STRING,
  item STRING,
  `time` BIGINT,
  kind STRING,
  `value` DOUBLE,
  list_id STRING,
  arrived AS PROCTIME()
) WITH (${events_source});

CREATE TEMPORARY TABLE histories (
  `user` STRING,
  events ARRAY<ROW<seq BIGINT, id STRING, item STRING, `time` BIGINT, kind STRING, `value` DOUBLE, list_id STRING>>
) WITH (${histories_sink});

INSERT INTO histories
SELECT
  `user`,
  ARRAY_AGG(ROW(seq, id, item, `time`, kind, `value`, list_id)) AS events
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(arrived), INTERVAL '1' SECOND))
GROUP BY window_start, window_end, `user`;
