-- covisits: which items the same user met on the same day.
--
-- Input   events: the log. t is when an event happened by the clock that is behind: LEAST(time, received).
-- Output  covisits: a row for each window of a second, pair of items and day that had new pairs.
--           a, b    two items, a < b as texts
--           bucket  FLOOR(t / 24 h), the day in UTC
--           n       number of users; each counts once for a pair and day
-- Cap     Of a user and day the first ${max_items} items take part, in order of arrival: a robot that meets all items
--         would else bring the square of their number.
-- Order   A pair is there as soon as both of its items are, whichever came first; sums are the same in any order.
-- State   The items of each user and day, for ${state_days} days after they arrived. An event that comes later than that
--         misses pairs with them, or counts its own once more.

SET 'table.exec.state.ttl' = '${state_days} d';

CREATE TEMPORARY TABLE events (
  `user` STRING,
  item STRING,
  `time` BIGINT,
  received BIGINT,
  weight DOUBLE
) WITH (${events_source});

CREATE TEMPORARY TABLE covisits (
  a STRING,
  b STRING,
  bucket BIGINT,
  n BIGINT
) WITH (${covisits_sink});

-- MOD of Flink has the sign of the dividend; added up twice it is the distance to midnight also before 1970.
CREATE TEMPORARY VIEW visits AS
SELECT
  `user`,
  item,
  (LEAST(`time`, received) - MOD(MOD(LEAST(`time`, received), ${day}) + ${day}, ${day})) / ${day} AS bucket,
  PROCTIME() AS arrived
FROM events
WHERE weight > 0;

-- Each item of a user and day once.
CREATE TEMPORARY VIEW distinct_visits AS
SELECT `user`, item, bucket, arrived
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY `user`, bucket, item ORDER BY arrived) AS occurrence
  FROM visits
)
WHERE occurrence = 1;

CREATE TEMPORARY VIEW capped_visits AS
SELECT `user`, item, bucket, arrived
FROM (
  SELECT
    *,
    COUNT(*) OVER (
      PARTITION BY `user`, bucket ORDER BY arrived ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS number
  FROM distinct_visits
)
WHERE number <= ${max_items};

-- Bounds of the time of arrival make this a join whose state goes by timers: one without them would look through some
-- of its state at each row for what has expired, which costs more than the join.
CREATE TEMPORARY VIEW pairs AS
SELECT x.item AS a, y.item AS b, x.bucket AS bucket, PROCTIME() AS met
FROM capped_visits AS x
JOIN capped_visits AS y ON x.`user` = y.`user` AND x.bucket = y.bucket
  AND x.arrived BETWEEN y.arrived - INTERVAL '${state_days}' DAY AND y.arrived + INTERVAL '${state_days}' DAY
WHERE x.item < y.item;

INSERT INTO covisits
SELECT a, b, bucket, COUNT(*) AS n
FROM TABLE(TUMBLE(TABLE pairs, DESCRIPTOR(met), INTERVAL '1' SECOND))
GROUP BY window_start, window_end, a, b, bucket;
