-- Release the turn and the relations of a live run that is about to be removed. ARGV: run.
redis.call('ZREM', TURNS, RUN_ID)
redis.call('ZREM', LINE, RUN_ID)
if not is_live(run_field('state')) then return 0 end
local flat = redis.call('HGETALL', STATES)
for i = 1, #flat, 2 do
  if flat[i + 1] == 'running' or flat[i + 1] == 'waiting' then abandon(flat[i], flat[i + 1]) end
end
return 1
