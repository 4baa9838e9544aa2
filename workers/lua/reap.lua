-- One overdue watch. ARGV: run, step, '1' when the queue is known to be empty.
-- Answers nothing, publish (the message is missing) or lost (its worker is gone).
local step = ARGV[2]
local due = redis.call('ZSCORE', LEASES, RUN_ID .. ' ' .. step)
if not due or tonumber(due) > now_ms() then return cjson.encode({what = 'nothing'}) end
local run_state, state = run_field('state'), state_of(step)
if not run_state or (run_state ~= 'active' and run_state ~= 'stopping') or not state
  or state == 'done' or state == 'blocked' then
  unwatch(step)
  return cjson.encode({what = 'nothing'})
end
local data = read_step(step)
if state == 'running' then
  data.losses = data.losses + 1
  data.fence = data.fence + 1
  write_step(step, data)
  hold_slot(step, false)
  unwatch(step)
  if step == '@session' then
    set_state(step, 'blocked')
    return cjson.encode({what = 'lost', losses = data.losses, owner = data.owner, publish = dispatch()})
  end
  if run_state == 'stopping' and (is_node(step) or step == '@start') then
    set_state(step, 'done')
    if is_node(step) then redis.call('HINCRBY', RUN, 'pending', -1) end
    close_when_done()
  else
    make_ready(step)
    publish({kind = 'state', node = step, state = 'lost', attempt = data.tries, worker = data.owner})
  end
  return cjson.encode({what = 'lost', losses = data.losses, tries = data.tries, owner = data.owner,
    started = data.started, publish = dispatch()})
end
-- queued, retrying, parked or ready: the message may be lost, or the queue just deep
data.waits = (data.waits or 0) + 1
if ARGV[3] == '1' or data.waits >= 60 then
  data.waits = 0
  write_step(step, data)
  watch_until(step, now_ms() + REPUBLISH_MS)
  return cjson.encode({what = 'publish'})
end
write_step(step, data)
watch_until(step, now_ms() + REPUBLISH_MS)
return cjson.encode({what = 'nothing'})
