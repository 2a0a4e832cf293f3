-- trending: how much each item is in demand, a sum of the weights of its events that halves with every half-life.
--
-- Input   events: the log. t is when an event happened by the clock that is behind: LEAST(time, received).
-- Output  trending: a row for each window of a second, item and bucket that had events of positive weight.
--           bucket  FLOOR(t / half-life)
--           score   SUM(weight * 2^((t - bucket * half-life) / half-life)), between the sum of weights and twice it
--           n       number of events
--         An item's score as of the moment T is SUM(score * 2^(bucket - T / half-life)) over its rows.
-- Order   Rows are sums, and sums of sums are the same in any order: an event is never late, and windows of processing
--         time, which only group what is written, may fall anywhere.

CREATE TEMPORARY TABLE events (
  item STRING,
  `time` BIGINT,
  received BIGINT,
  weight DOUBLE
) WITH (${events_source});

CREATE TEMPORARY TABLE trending (
  item STRING,
  bucket BIGINT,
  score DOUBLE,
  n BIGINT
) WITH (${trending_sink});

-- MOD of Flink has the sign of the dividend; added up twice it is the distance to the bucket's start also before 1970.
CREATE TEMPORARY VIEW weighted_events AS
SELECT
  item,
  weight,
  LEAST(`time`, received) AS t,
  MOD(MOD(LEAST(`time`, received), ${half_life}) + ${half_life}, ${half_life}) AS elapsed,
  PROCTIME() AS arrived
FROM events
WHERE weight > 0;

INSERT INTO trending
SELECT
  item,
  (t - elapsed) / ${half_life} AS bucket,
  SUM(weight * POWER(2e0, CAST(elapsed AS DOUBLE) / ${half_life})) AS score,
  COUNT(*) AS n
FROM TABLE(TUMBLE(TABLE weighted_events, DESCRIPTOR(arrived), INTERVAL '1' SECOND))
GROUP BY window_start, window_end, item, (t - elapsed) / ${half_life};
