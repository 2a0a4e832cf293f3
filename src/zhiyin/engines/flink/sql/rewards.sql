-- rewards: what users did with what they were shown, for training; and how often it was clicked, for whoever shows.
--
-- Inputs  impressions: an item in a slot of a list, each once; events: the log.
--         They join where list and item are the same and the event comes after the list, within the window of
--         rewards, both by the clock of who sent them.
-- Outputs rewards: a row for each impression and event of it.
--           user, event_id, kind, value, weight, time  of the event
--           list_id, placement, version, slot          of the impression; slots count from 1
--           seconds                                    from the list to the event
--         click_through: a row for each window of a second, placement and item.
--           shown    number of impressions
--           clicked  number of impressions that have an event, however many
-- Order   A join has its rows as soon as both sides are there, whichever came first; the rest are sums.
-- State   Impressions and events that name a list, for ${state_days} days. What comes later than that finds no partner.

SET 'table.exec.state.ttl' = '${state_days} d';
-- Both outputs are of one join.
SET 'table.optimizer.reuse-optimize-block-with-digest-enabled' = 'true';

CREATE TEMPORARY TABLE impressions (
  list_id STRING,
  placement STRING,
  version BIGINT,
  `time` BIGINT,
  slot BIGINT,
  item STRING,
  arrived AS PROCTIME()
) WITH (${impressions_source});

CREATE TEMPORARY TABLE events (
  id STRING,
  `user` STRING,
  item STRING,
  `time` BIGINT,
  kind STRING,
  `value` DOUBLE,
  list_id STRING,
  weight DOUBLE,
  arrived AS PROCTIME()
) WITH (${events_source});

CREATE TEMPORARY TABLE rewards (
  list_id STRING,
  placement STRING,
  version BIGINT,
  slot BIGINT,
  item STRING,
  `user` STRING,
  event_id STRING,
  kind STRING,
  `value` DOUBLE,
  weight DOUBLE,
  `time` BIGINT,
  seconds DOUBLE
) WITH (${rewards_sink});

CREATE TEMPORARY TABLE click_through (
  placement STRING,
  item STRING,
  shown BIGINT,
  clicked BIGINT
) WITH (${click_through_sink});

CREATE TEMPORARY VIEW events_of_lists AS SELECT * FROM events WHERE list_id IS NOT NULL;

-- Bounds of the time of arrival make this a join whose state goes by timers: one without them would look through some
-- of its state at each row for what has expired, which costs more than the join.
CREATE TEMPORARY VIEW joined AS
SELECT
  i.list_id,
  i.placement,
  i.version,
  i.slot,
  i.item,
  e.`user`,
  e.id AS event_id,
  e.kind,
  e.`value`,
  e.weight,
  e.`time`,
  CAST(e.`time` - i.`time` AS DOUBLE) / 1e6 AS seconds
FROM impressions AS i
JOIN events_of_lists AS e ON i.list_id = e.list_id AND i.item = e.item
  AND e.arrived BETWEEN i.arrived - INTERVAL '${state_days}' DAY AND i.arrived + INTERVAL '${state_days}' DAY
WHERE e.`time` BETWEEN i.`time` AND i.`time` + ${reward_window};

CREATE TEMPORARY VIEW clicked_impressions AS
SELECT placement, item
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY list_id, item ORDER BY joined_at) AS occurrence
  FROM (SELECT placement, list_id, item, PROCTIME() AS joined_at FROM joined)
)
WHERE occurrence = 1;

CREATE TEMPORARY VIEW counts AS
SELECT placement, item, shown, clicked, PROCTIME() AS arrived
FROM (
  SELECT placement, item, CAST(1 AS BIGINT) AS shown, CAST(0 AS BIGINT) AS clicked FROM impressions
  UNION ALL
  SELECT placement, item, CAST(0 AS BIGINT) AS shown, CAST(1 AS BIGINT) AS clicked FROM clicked_impressions
);

INSERT INTO rewards SELECT * FROM joined;

INSERT INTO click_through
SELECT placement, item, SUM(shown) AS shown, SUM(clicked) AS clicked
FROM TABLE(TUMBLE(TABLE counts, DESCRIPTOR(arrived), INTERVAL '1' SECOND))
GROUP BY window_start, window_end, placement, item;
