-- Renew leases. ARGV: run, lease (ms), then step, fence pairs. Returns ok, lost or stop for each.
even_when_full()
local lease = tonumber(ARGV[2])
local run_state = run_field('state')

local function renews(step, fence)
  if state_of(step) ~= 'running' or read_step(step).fence ~= fence then return false end
  if step == '@session' then
    -- if the run has ended, the next run may have the warehouse by now
    local files = own_files()
    if not holds_files(files) then return false end
    for _, file in ipairs(files) do
      if hold_of(file).fence ~= fence then return false end
    end
    for _, file in ipairs(files) do
      local hold = hold_of(file)
      hold.expires = now_ms() + lease
      write_hold(file, hold)
    end
  elseif not is_live(run_state) then
    return true  -- it is told to stop below; no step of an ended run needs a lease
  end
  lease_until(step, now_ms() + lease)
  return true
end

-- a node that was due when another one ended the run has a time limit (`give_grace`)
local function has_grace(step)
  local data = read_step(step)
  return data.grace and now_ms() <= data.started * 1000 + data.grace
end

local out = {}
for i = 3, #ARGV, 2 do
  local step = ARGV[i]
  if renews(step, tonumber(ARGV[i + 1])) then
    -- the close of a stopping run must finish; a session ends when no step is ready
    local stop = run_state ~= 'active' and step ~= '@close' and step ~= '@session' and not has_grace(step)
    out[#out + 1] = stop and 'stop' or 'ok'
  else
    out[#out + 1] = 'lost'
  end
end
return out
