-- Put a claimed step back. ARGV: run, step, fence, kind, wait (ms), attempt JSON or '', facts JSON or ''.
--   kind 'retry': it failed for a passing reason; Celery brings it back after the wait.
--   kind 'release': it did not begin (drain, or only a session may do it); at once ready again.
local step, fence, kind, wait = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local data = read_step(step)
if data.fence ~= fence or state_of(step) ~= 'running' then
  return cjson.encode({accepted = false, reason = 'fence lost'})
end
if ARGV[6] ~= '' then redis.call('RPUSH', ATTEMPTS, ARGV[6]) end
if ARGV[7] ~= '' then
  for name, value in pairs(cjson.decode(ARGV[7])) do redis.call('HSET', RUN, name, value) end
end
hold_slot(step, false)
unwatch(step)
if run_field('state') == 'stopping' and (is_node(step) or step == '@start') then
  set_state(step, 'done')
  if is_node(step) then redis.call('HINCRBY', RUN, 'pending', -1) end
  close_when_done()
elseif kind == 'retry' then
  set_state(step, 'retrying')
  watch_until(step, now_ms() + wait + REPUBLISH_MS)
  publish({kind = 'state', node = step, state = 'retrying', attempt = data.tries, worker = data.owner})
else
  data.tries = data.tries - 1
  write_step(step, data)
  make_ready(step)
end
return cjson.encode({accepted = true, publish = dispatch()})
