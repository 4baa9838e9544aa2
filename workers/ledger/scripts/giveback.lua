-- Put a claimed step back. ARGV: run, step, fence, kind, wait (ms), attempt JSON or '', facts JSON or ''.
--   kind 'retry': it failed for a passing reason; Celery brings it back after the wait.
--   kind 'handback': its worker is stopping, and its dbt has ended; at once ready again, and no loss.
--   kind 'release': it did not begin (only a session may do it); at once ready again.
-- Replaying it is a no-op.
even_when_full()
local step, fence, kind, wait = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local data = read_step(step)
local run_state = run_field('state')
if data.fence ~= fence or not is_live(run_state) then
  return cjson.encode({accepted = false, reason = 'fence lost'})
end
if data.given == kind then return cjson.encode({accepted = true, publish = dispatch()}) end
if state_of(step) ~= 'running' then return cjson.encode({accepted = false, reason = 'fence lost'}) end
if ARGV[6] ~= '' then redis.call('RPUSH', ATTEMPTS, ARGV[6]) end
if ARGV[7] ~= '' then
  for name, value in pairs(cjson.decode(ARGV[7])) do redis.call('HSET', RUN, name, value) end
end
unwatch(step)
data.given = kind
if kind == 'release' then data.tries = data.tries - 1 end
if kind == 'handback' then data.handed = (data.handed or 0) + 1 end
write_step(step, data)
if run_state == 'stopping' and (is_node(step) or step == '@start') then
  set_state(step, 'done')
  close_when_done()
elseif kind == 'retry' then
  set_state(step, 'retrying')
  watch(step, wait)
  publish({kind = 'state', node = step, state = 'retrying', attempt = data.tries, worker = data.owner})
else
  make_ready(step)
  if kind == 'handback' then
    publish({kind = 'state', node = step, state = 'handed back', attempt = data.tries, worker = data.owner})
  end
end
return cjson.encode({accepted = true, publish = dispatch()})
