-- End a session after it closed the warehouse. A run that has not ended keeps its files: runs on the same warehouse
-- never interleave. A run that has ended releases them to the next run.
-- ARGV: run, warehouse, fence, for each file the record of the process. Returns the steps to publish.
even_when_full()
local files = files_of(ARGV[2])
local fence = tonumber(ARGV[3])
local held = false
for i, file in ipairs(files) do
  local hold, holder = hold_of(file), ARGV[3 + i]
  redis.call('HDEL', STRAYS, holder)
  if hold and hold.fence == fence then held = true end
  if hold and hold.holder == holder then
    hold.holder = nil
    write_hold(file, hold)
  end
end
local mine = state_of('@session') == 'running' and read_step('@session').fence == fence
if mine then
  unwatch('@session')
  set_state('@session', 'blocked')
end
if not is_live(run_field('state')) then
  if held then release_files(files) end
  return dispatch()
end
if not mine then return {} end
for _, file in ipairs(files) do
  local hold = hold_of(file)
  if hold then
    hold.expires = 0
    write_hold(file, hold)
  end
end
return dispatch()
