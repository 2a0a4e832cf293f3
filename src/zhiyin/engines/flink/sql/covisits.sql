-- covisits: which items the same user met on the same day.
--
-- Input   events: the log. t is when an event happened by the clock that is behind: LEAST(time, received).
-- Output  covisits: a row for each user, day and two items that the user met on that day.
--           a, b    the items, a < b as texts
--           bucket  FLOOR(t / 24 h), the day in UTC
--           n       1: how many users they are; who reads adds
-- Cap     Of a user and day the first ${max_items} items take part, in order of arrival: a robot that meets all items
--         would else bring the square of their number.
-- Order   A pair is there as soon as both of its items are, whichever came first; sums are the same in any order.
-- State   The items of each user and day, for ${state_days} days after they arrived. An event that comes later than that
--         misses pairs with them, or counts its own once more.
-- Speed   Few pairs come twice within a second, so that counting them in windows costs more than it saves. An array of
--         the items of a user and day is a third cheaper than a join of the visits with themselves.

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

-- Each item with those of its user and day so far, itself included.
CREATE TEMPORARY VIEW met_items AS
SELECT
  item,
  bucket,
  ARRAY_AGG(item) OVER (
    PARTITION BY `user`, bucket ORDER BY arrived ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  ) AS items
FROM capped_visits;

INSERT INTO covisits
SELECT LEAST(item, other) AS a, GREATEST(item, other) AS b, bucket, CAST(1 AS BIGINT) AS n
FROM met_items CROSS JOIN UNNEST(items) AS met (other)
WHERE other <> item;
