-- Record a new run with its first step. Repeating the call changes nothing.
-- ARGV: run, request, step, priority of its messages, deadline (seconds from now, 0 = none).
if redis.call('EXISTS', RUN) == 1 then return 0 end
local step = ARGV[3]
redis.call('HSET', RUN, 'state', 'active', 'request', ARGV[2], 'created', now_ms() / 1000,
  'priority', ARGV[4], 'mode', 'message', 'parallel', 1, 'inflight', 0, 'queued', 0, 'pending', 0, 'total', 0,
  'done', 0, 'index', 0, 'seq', 0)
write_step(step, {fence = 0, losses = 0, tries = 0, priority = -1})
set_state(step, 'queued')
watch(step)
local deadline = tonumber(ARGV[5])
if deadline > 0 then
  redis.call('HSET', RUN, 'deadline', ARGV[5])
  lease_until('@deadline', now_ms() + deadline * 1000)
end
redis.call('ZADD', ACTIVE, now_ms() / 1000, RUN_ID)
publish({kind = 'run', state = 'active'})
return 1
