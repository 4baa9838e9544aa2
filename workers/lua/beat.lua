-- Renew leases. ARGV: run, lease (ms), then step, fence pairs. Answers ok, lost or stop for each.
local lease = tonumber(ARGV[2])
local out = {}
local run_state = run_field('state')
for i = 3, #ARGV, 2 do
  local step, fence = ARGV[i], tonumber(ARGV[i + 1])
  if state_of(step) == 'running' and read_step(step).fence == fence then
    watch_until(step, now_ms() + lease)
    -- the close of a stopping run must be let finish; a session ends by itself
    local stop = run_state ~= 'active' and step ~= '@close' and step ~= '@session'
    out[#out + 1] = stop and 'stop' or 'ok'
    if step == '@session' and KEYS[16] then
      redis.call('HSET', KEYS[16], 'expires', now_ms() + lease)
    end
  else
    out[#out + 1] = 'lost'
  end
end
return out
