-- Let go of what a run that is about to be removed holds of relations. ARGV: run.
local flat = redis.call('HGETALL', STATES)
for i = 1, #flat, 2 do
  if flat[i + 1] == 'running' or flat[i + 1] == 'waiting' then abandon(flat[i], flat[i + 1]) end
end
return woken
