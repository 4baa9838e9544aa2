-- Check one overdue lease or watch. ARGV: run, step, time (ms) after which the check is too late, or '';
--   optionally an owner that is known to be dead, whose leases are treated as expired, and JSON of its death.
-- Returns `what`, and the steps to publish: nothing, late, publish (the message is missing), lost (the worker is gone)
-- or deadline (the run's deadline has passed; it is a lease named `@deadline`, which is not a step).
even_when_full()
local step = ARGV[2]
local name, now = RUN_ID .. ' ' .. step, now_ms()
if ARGV[3] ~= '' and now > tonumber(ARGV[3]) then return cjson.encode({what = 'late'}) end
local due = redis.call('ZSCORE', LEASES, name) or redis.call('ZSCORE', WATCHES, name)
if due and ARGV[4] then
  if state_of(step) ~= 'running' or read_step(step).owner ~= ARGV[4] then
    return cjson.encode({what = 'nothing'})
  end
  due = now
end
if not due or tonumber(due) > now then return cjson.encode({what = 'nothing'}) end
local run_state, state = run_field('state'), state_of(step)
local function nothing()
  return cjson.encode({what = 'nothing', publish = dispatch()})
end

if step == '@deadline' then
  unwatch(step)
  if run_state ~= 'active' then return nothing() end
  redis.call('HSET', RUN, 'late', 1)
  local reason = 'its deadline of ' .. run_field('deadline') .. ' s has passed'
  return cjson.encode({what = 'deadline', publish = cancel_run(reason)})
end
if not is_live(run_state) then
  unwatch(step)
  if step ~= '@session' or not run_state then return nothing() end
  set_state(step, 'blocked')
  local files = own_files()
  if holds_files(files) then release_files(files) end
  return nothing()
end
if not state or state == 'done' or state == 'blocked' then
  unwatch(step)
  return nothing()
end

local function lose(lost)
  local data = read_step(lost)
  data.losses = data.losses + 1
  data.fence = data.fence + 1
  data.died = ARGV[5] and cjson.decode(ARGV[5])
  write_step(lost, data)
  unwatch(lost)
  redis.call('HINCRBY', RUN, 'lost', 1)
  if lost == '@session' then
    for _, file in ipairs(own_files()) do
      local hold = hold_of(file)
      if hold then
        suspect(hold.holder)
        write_hold(file, {fence = hold.fence, expires = 0})
      end
    end
    set_state(lost, 'blocked')
    -- the step that the session executes is lost too: the next session must not execute another one beside it
    if data.took and state_of(data.took) == 'running' then lose(data.took) end
  elseif run_state == 'stopping' and (is_node(lost) or lost == '@start') then
    set_state(lost, 'done')
    close_when_done()
  else
    make_ready(lost)
    publish({kind = 'state', node = lost, state = 'lost', attempt = data.tries, worker = data.owner})
  end
  return data
end
if state == 'running' then
  local data = lose(step)
  return cjson.encode({what = 'lost', losses = data.losses, tries = data.tries, owner = data.owner,
    started = data.started, publish = dispatch()})
end

-- queued, retrying, parked or waiting: the message may have been lost
watch(step)
if state == 'waiting' and writer_before(step) then return nothing() end
if state == 'waiting' and step == '@plan' and takes_turns() and not take_turn() then return nothing() end
if state == 'parked' and are_taken(own_files()) then return nothing() end
return cjson.encode({what = 'publish', publish = dispatch()})
