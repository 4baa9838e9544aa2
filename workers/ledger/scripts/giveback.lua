-- Give a claimed step back. ARGV: run, step, fence, kind, wait (ms), attempt JSON or '', facts JSON or ''.
--   kind 'retry': a transient failure; Celery delivers the step again after the wait.
--   kind 'handback': the worker is stopping and dbt has ended; the step is ready at once, and no loss is counted.
--   kind 'release': the step did not begin (only a session may execute it); it is ready at once.
-- Repeating the call changes nothing.
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
