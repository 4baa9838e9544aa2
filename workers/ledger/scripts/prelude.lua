-- Prepended to every script: names for the run's keys, and functions that several scripts share.
-- Only contract/keys.py builds KEYS. The scripts need one Redis server, not a cluster.
local RUN, STATES, STEPS, CHILDREN, WAITING, READY, RESULTS, ATTEMPTS, CACHE, EVENTS, PUBLISHERS,
  CHANNEL, LEASES, WATCHES, ACTIVE, FINISHED, LOCKS, STRAYS, LOG, TURNS = unpack(KEYS)
local RUN_ID = ARGV[1]
local REPUBLISH_MS = 5000   -- after this time the reaper checks a step whose message was not claimed
local ELSEWHERE_MS = 15000  -- the same for a message that was passed on to workers of another dbt release
local STREAM_LENGTH = 100000
local LOG_LENGTH = 2000     -- unread entries of the log file's stream; further ones are dropped
local LOG_SECONDS = 3600    -- how long the stream is kept for its reader
local STRAY_SECONDS = 86400
local WRITER_SECONDS = 86400  -- how long the last writer of a relation is kept
local MANY = 1000            -- steps in one command: Lua's stack takes a few thousand arguments
local WINDOW = 16           -- unclaimed messages of one run; further steps that are ready wait in the ledger

local function now_ms()
  -- the server's clock: clocks of workers may be wrong
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function run_field(name)
  return redis.call('HGET', RUN, name)
end

local function number_field(name)
  return tonumber(run_field(name) or '0')
end

-- Nothing is written for a run that has ended: its keys expire, and a new key would never expire.
local function is_live(state)
  return state == 'active' or state == 'stopping'
end

-- A full server (maxmemory, noeviction) refuses a script's first write if that may need memory, but no later write.
-- Scripts that end, renew or stop work must succeed there: their first write needs no memory. Scripts that begin work
-- must fail there: their first write may need memory.
local function even_when_full()
  redis.call('HDEL', RUN, '')
end

local function not_when_full()
  redis.call('HINCRBY', RUN, 'queued', 0)
end

local function read_step(step)
  local raw = redis.call('HGET', STEPS, step)
  return raw and cjson.decode(raw) or {fence = 0, losses = 0, tries = 0}
end

local function write_step(step, data)
  redis.call('HSET', STEPS, step, cjson.encode(data))
end

local function state_of(step)
  return redis.call('HGET', STATES, step)
end

local function is_node(step)
  return string.sub(step, 1, 1) ~= '@'
end

-- A lock has a line of waiters: sessions wait for a warehouse, nodes for a relation.
local function lock_keys(name)
  return LOCKS .. name, LOCKS .. name .. ':waiters'
end

-- A relation has one writer at a time: the running node that holds its lock. Other nodes wait in the order in which
-- they came. A node that holds a lock waits for no other, so there is no deadlock.
local function relation_keys(step)
  local name = is_node(step) and read_step(step).lock
  if name then return lock_keys('relation:' .. name) end
end

local function first_in_line(waiters)
  while true do
    local first = redis.call('LINDEX', waiters, 0)
    if not first or redis.call('ZSCORE', ACTIVE, string.match(first, '^[^ ]+')) then return first end
    redis.call('LPOP', waiters)
  end
end

-- The run that writes the step's relation, or is before it in line; nil if the step may write now.
local function writer_before(step)
  local lock, waiters = relation_keys(step)
  if not lock then return nil end
  local run = redis.call('HGET', lock, 'run')
  if run then return run end
  local first = first_in_line(waiters)
  if first and first ~= RUN_ID .. ' ' .. step then return string.match(first, '^[^ ]+') end
end

-- Steps of other runs that may go on now, '<run> <step>'. `dispatch` returns them with the run's own.
local woken = {}

local function wake(step)
  for _, known in ipairs(woken) do
    if known == step then return end
  end
  woken[#woken + 1] = step
end

-- Other active runs may have cached an earlier state of the relation.
local function note_writer(lock)
  if redis.call('ZCARD', ACTIVE) > (redis.call('ZSCORE', ACTIVE, RUN_ID) and 1 or 0) then
    redis.call('SET', lock .. ':writer', RUN_ID, 'EX', WRITER_SECONDS)
  else
    redis.call('DEL', lock .. ':writer')
  end
end

local function leave_relation(step, state)
  local lock, waiters = relation_keys(step)
  if not lock then return end
  local holder = redis.call('HMGET', lock, 'run', 'step')
  if state == 'waiting' then
    redis.call('LREM', waiters, 0, RUN_ID .. ' ' .. step)
  elseif holder[1] == RUN_ID and holder[2] == step then
    redis.call('DEL', lock)
    note_writer(lock)
    holder = {}
  end
  local first = not holder[1] and first_in_line(waiters)
  if first then wake(first) end
end

-- Only this function changes the counters, which follow from the states, and releases the lock of a node's relation.
-- Queued and running steps count against the run's parallelism; a node is pending until it is done.
local function set_state(step, state)
  local before = state_of(step)
  redis.call('HSET', STATES, step, state)
  if before ~= state and (before == 'running' or before == 'waiting') then leave_relation(step, before) end
  if step == '@session' then return end
  local function count(name, is, was)
    if is ~= was then redis.call('HINCRBY', RUN, name, is and 1 or -1) end
  end
  count('queued', state == 'queued', before == 'queued')
  count('inflight', state == 'queued' or state == 'running', before == 'queued' or before == 'running')
  if is_node(step) and state == 'done' and before ~= 'done' then redis.call('HINCRBY', RUN, 'pending', -1) end
end

-- A claimed step has a lease; a step whose message was not claimed has a watch.
local function lease_until(step, due_ms)
  redis.call('ZREM', WATCHES, RUN_ID .. ' ' .. step)
  redis.call('ZADD', LEASES, due_ms, RUN_ID .. ' ' .. step)
end

local function watch(step, wait_ms)
  redis.call('ZREM', LEASES, RUN_ID .. ' ' .. step)
  redis.call('ZADD', WATCHES, now_ms() + (wait_ms or 0) + REPUBLISH_MS, RUN_ID .. ' ' .. step)
end

local function unwatch(step)
  redis.call('ZREM', LEASES, RUN_ID .. ' ' .. step)
  redis.call('ZREM', WATCHES, RUN_ID .. ' ' .. step)
end

local function publish(fields)
  fields.run_id = RUN_ID
  fields.at = fields.at or (now_ms() / 1000)
  local seq = redis.call('HINCRBY', RUN, 'seq', 1)
  local body = cjson.encode(fields)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', STREAM_LENGTH, '*', 's', seq, 'e', body)
  redis.call('PUBLISH', CHANNEL, seq .. ' ' .. body)
end

-- dbt starts nodes in the order in which they became ready; of those that became ready together, the least deep
-- first, then by name (dbt.graph.queue.GraphQueue, dbt.task.runnable.run_queue).
local batch
local function make_ready(step)
  set_state(step, 'ready')
  local depth = read_step(step).priority or 0
  if is_node(step) then
    batch = batch or redis.call('HINCRBY', RUN, 'batch', 1)
    depth = depth + batch * 65536
  end
  redis.call('ZADD', READY, depth, step)
end

-- The same for blocked nodes, in a fixed number of commands.
local function make_nodes_ready(nodes)
  if #nodes == 0 then return end
  batch = batch or redis.call('HINCRBY', RUN, 'batch', 1)
  local states, places = {}, {}
  for i, raw in ipairs(redis.call('HMGET', STEPS, unpack(nodes))) do
    states[2 * i - 1], states[2 * i] = nodes[i], 'ready'
    places[2 * i - 1], places[2 * i] = (cjson.decode(raw).priority or 0) + batch * 65536, nodes[i]
  end
  redis.call('HSET', STATES, unpack(states))
  redis.call('ZADD', READY, unpack(places))
end

-- Whether another dbt release than the caller's planned the run. Older workers do not send their release.
local OTHER_DBT = 'planned by another dbt'
local function is_of_another_dbt(release)
  local planned_by = run_field('dbt')
  return planned_by and release and release ~= '' and planned_by ~= release
end

local function free_threads()
  return number_field('parallel') - number_field('inflight')
end

local may_go_on, most_at_once, call_when_line_is_empty, leave_line, leave_turns  -- turns.lua

-- Hand out the steps that may start now. Returns the steps whose messages the caller must send.
local function dispatch()
  local has_turn = may_go_on()
  call_when_line_is_empty()
  local out = woken
  woken = {}
  if not is_live(run_field('state')) then return out end
  if run_field('mode') == 'session' then
    local session = state_of('@session')
    if redis.call('ZCARD', READY) > 0 and (not session or session == 'blocked') then
      set_state('@session', 'queued')
      watch('@session')
      out[#out + 1] = '@session'
    end
    return out
  end
  if not has_turn then return out end
  local free = math.min(free_threads(), WINDOW - number_field('queued'), most_at_once() - number_field('inflight'))
  while free > 0 do
    local popped = redis.call('ZPOPMIN', READY)
    if #popped == 0 then break end
    local step = popped[1]
    set_state(step, 'queued')
    watch(step)
    out[#out + 1] = step
    free = free - 1
  end
  return out
end

local function close_when_done()
  if number_field('pending') == 0 and run_field('planned') == '1' and not state_of('@close')
    and state_of('@start') ~= 'running' then
    write_step('@close', {fence = 0, losses = 0, tries = 0, priority = -1})
    make_ready('@close')
  end
end

-- End every node that has not begun, without a result; the close reports it.
-- `kept`: set of nodes that may still begin.
local function stop_run(reason, kept)
  redis.call('HSET', RUN, 'state', 'stopping', 'stop', reason)
  unwatch('@deadline')
  leave_line()
  if run_field('planned') ~= '1' then return end  -- the end of the plan calls this function again
  local flat = redis.call('HGETALL', STATES)
  for i = 1, #flat, 2 do
    local step, state = flat[i], flat[i + 1]
    if (is_node(step) or step == '@start') and state ~= 'done' and state ~= 'running'
      and not (kept and kept[step]) then
      set_state(step, 'done')
      unwatch(step)
      redis.call('ZREM', READY, step)
    end
  end
end

-- Nodes that dbt would be executing beside the one that failed: it executes as many at once as it has threads. Here
-- some of those may not have begun: a session executes one node at a time, there may be fewer processes than threads,
-- or other runs wait in line.
local function nodes_beside()
  if run_field('mode') == 'session' then
    local others = number_field('parallel') - 1
    return others > 0 and redis.call('ZRANGE', READY, 0, others - 1) or {}
  end
  local nodes, flat = {}, redis.call('HGETALL', STATES)
  for i = 1, #flat, 2 do
    if is_node(flat[i]) and flat[i + 1] == 'queued' then nodes[#nodes + 1] = flat[i] end
  end
  local others = free_threads() - 1
  for _, step in ipairs(others > 0 and redis.call('ZRANGE', READY, 0, others - 1) or {}) do
    if is_node(step) then nodes[#nodes + 1] = step end
  end
  return nodes
end

-- In dbt, these nodes would have run for as long as the node that ends the run. So that is their time limit.
local LEAST_GRACE_MS = 100
local function give_grace(nodes, ended)
  local kept, took = {}, now_ms() - (ended.started or 0) * 1000
  for _, node in ipairs(nodes) do
    local data = read_step(node)
    data.grace = math.max(LEAST_GRACE_MS, took)
    write_step(node, data)
    kept[node] = true
  end
  return kept
end

-- Called for each unfinished node when its run ends or is removed. A worker may still write until it learns of the end,
-- so the lock of its relation stays until its lease expires.
local function abandon(step, state)
  local lock, waiters = relation_keys(step)
  if not lock then return end
  local lease = redis.call('ZSCORE', LEASES, RUN_ID .. ' ' .. step)
  if state == 'running' and lease and tonumber(lease) > now_ms() then
    local holder = redis.call('HMGET', lock, 'run', 'step')
    if holder[1] == RUN_ID and holder[2] == step then
      redis.call('PEXPIREAT', lock, lease)
      note_writer(lock)
    end
  else
    leave_relation(step, state)
  end
end

-- Store the run's result. All keys of the run get the same expiry.
local function end_run(state, final, ttl)
  redis.call('HSET', RUN, 'state', state, 'final', final, 'ended', now_ms() / 1000)
  redis.call('ZREM', ACTIVE, RUN_ID)
  redis.call('DEL', READY)
  unwatch('@deadline')
  local flat = redis.call('HGETALL', STATES)
  for i = 1, #flat, 2 do
    if flat[i + 1] == 'running' or flat[i + 1] == 'waiting' then abandon(flat[i], flat[i + 1]) end
    -- a running session still has to close its warehouse
    if flat[i + 1] ~= 'done' and (flat[i] ~= '@session' or flat[i + 1] ~= 'running') then unwatch(flat[i]) end
  end
  leave_turns()
  local now = now_ms() / 1000
  redis.call('ZREMRANGEBYSCORE', FINISHED, '-inf', now)
  redis.call('ZADD', FINISHED, now + ttl, RUN_ID)
  if redis.call('TTL', FINISHED) < ttl then redis.call('EXPIRE', FINISHED, ttl) end
  publish({kind = 'run', state = state})
  for i = 1, 11 do redis.call('EXPIRE', KEYS[i], ttl) end
end
