-- Turns limit how many runs have steps under way at once, so that worker processes keep the parsed projects of those
-- runs. The other runs wait in line, first come first served within a priority, and occupy no worker.
--   TURNS: sorted set, run -> when its turn began (ms), 0 until its message is claimed. LINE: sorted set, run -> its place.
--   RULES: hash, `runs` (number of turns) and `seconds` (length of a turn while others wait). The workers write both
--   (workers/supervision/worker_registry.py). Without `runs` there are no turns.
-- Runs that have ended or were removed are dropped from TURNS and LINE when a script reads these.
-- A run in line has a watch (for `@plan`, in whatever state that step is), so the reaper finds a lost message.
-- While a run waits in line, each run with a turn has one step under way at a time (field `narrow` of RULES). There are
-- as many turns as processes, so no process is idle, and the process that executed the last step of a run, which has
-- its project loaded, can execute the next one too.
local LINE, RULES = TURNS .. ':line', TURNS .. ':rules'
local PRIORITY = 1e13  -- more than any time in ms: the line is ordered by priority, then by time

-- Sessions wait for their files instead; a run that is being stopped needs no turn to end.
local function takes_turns()
  return run_field('state') == 'active' and run_field('mode') ~= 'session' and state_of('@plan')
    and redis.call('HEXISTS', RULES, 'runs') == 1
end

local function first_with_place()
  while true do
    local first = redis.call('ZRANGE', LINE, 0, 0, 'WITHSCORES')
    if not first[1] or redis.call('ZSCORE', ACTIVE, first[1]) then return first[1], tonumber(first[2]) end
    redis.call('ZREM', LINE, first[1])
  end
end

local function free_turns()
  for _, run in ipairs(redis.call('ZRANGE', TURNS, 0, -1)) do
    if not redis.call('ZSCORE', ACTIVE, run) then redis.call('ZREM', TURNS, run) end
  end
  return tonumber(redis.call('HGET', RULES, 'runs') or '0') - redis.call('ZCARD', TURNS)
end

-- Give the free turns to the first runs in line. Each of them is sent a message for its `@plan`: the claim begins the
-- run, or hands out the steps that are ready.
local function pass_turns()
  for _ = 1, free_turns() do
    local first = first_with_place()
    if not first then return end
    redis.call('ZREM', LINE, first)
    redis.call('ZADD', TURNS, first == RUN_ID and now_ms() or 0, first)
    if first ~= RUN_ID then
      redis.call('ZADD', WATCHES, now_ms() + REPUBLISH_MS, first .. ' @plan')
      wake(first .. ' @plan')
    elseif state_of('@plan') == 'done' then
      unwatch('@plan')
    end
  end
end

-- Whether the run has a turn now; otherwise it is in line.
local function take_turn()
  local since = redis.call('ZSCORE', TURNS, RUN_ID)
  if since then
    if tonumber(since) == 0 then redis.call('ZADD', TURNS, now_ms(), RUN_ID) end
    return true
  end
  local place = number_field('priority') * PRIORITY + now_ms()
  local is_new = redis.call('ZADD', LINE, 'NX', place, RUN_ID) == 1
  pass_turns()
  if redis.call('ZSCORE', TURNS, RUN_ID) then return true end
  watch('@plan')
  if is_new and state_of('@plan') ~= 'done' then
    local text = 'waiting for its turn: ' .. redis.call('ZCARD', TURNS) .. ' other runs go on first'
    publish({kind = 'state', node = '@plan', state = 'waiting', text = text})
  end
  return false
end

-- A turn begins with the claim of its message, so each turn hands out at least one step.
local function is_over(since)
  if since == 0 then return false end
  local first, place = first_with_place()
  if not first then return false end
  return now_ms() - since >= 1000 * tonumber(redis.call('HGET', RULES, 'seconds') or '0')
    or math.floor(place / PRIORITY) < number_field('priority')
end

local function give_turn_up()
  if redis.call('ZREM', TURNS, RUN_ID) == 1 then pass_turns() end
end

-- How many steps of the run may be under way at once.
most_at_once = function()
  if not takes_turns() then return math.huge end
  local first, place = first_with_place()
  if not first or math.floor(place / PRIORITY) > number_field('priority') then return math.huge end
  redis.call('HSET', RULES, 'narrow', 1)
  return 1
end

-- When the last run has left the line, each run with a turn is sent a message, whose claim hands out more of its steps.
-- If the message is lost, the end of the run's step under way does it.
call_when_line_is_empty = function()
  if redis.call('HEXISTS', RULES, 'narrow') == 0 or first_with_place() then return end
  redis.call('HDEL', RULES, 'narrow')
  local turns = redis.call('ZRANGE', TURNS, 0, -1, 'WITHSCORES')
  for i = 1, #turns, 2 do
    local plan = turns[i] .. ' @plan'
    -- a plan with a watch waits for its retry
    if turns[i] ~= RUN_ID and tonumber(turns[i + 1]) > 0 and not redis.call('ZSCORE', WATCHES, plan) then wake(plan) end
  end
end

may_go_on = function()
  if run_field('mode') == 'session' then give_turn_up() end
  if not takes_turns() then return true end
  local since, is_ready = redis.call('ZSCORE', TURNS, RUN_ID), redis.call('ZCARD', READY) > 0
  if since and is_ready and is_over(tonumber(since)) then
    give_turn_up()
  elseif not is_ready and state_of('@plan') == 'done' then
    if not since then
      redis.call('ZREM', LINE, RUN_ID)
      unwatch('@plan')
    elseif number_field('inflight') == 0 then
      give_turn_up()  -- the run waits for a retry or a relation
    end
  end
  return is_ready and take_turn()
end

leave_line = function()
  redis.call('ZREM', LINE, RUN_ID)
  if state_of('@plan') == 'waiting' then
    unwatch('@plan')
    make_ready('@plan')
  elseif state_of('@plan') == 'done' then
    unwatch('@plan')
  end
end

leave_turns = function()
  redis.call('ZREM', LINE, RUN_ID)
  unwatch('@plan')
  give_turn_up()
end
