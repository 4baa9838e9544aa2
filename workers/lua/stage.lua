-- Put planned nodes in place, in chunks, before the plan step finishes. Replaying a chunk is a no-op.
-- ARGV: run, fence of the plan step, JSON [{id, priority, parents, children, ephemeral}], JSON roots.
if state_of('@plan') ~= 'running' or read_step('@plan').fence ~= tonumber(ARGV[2]) then return 0 end
for _, node in ipairs(cjson.decode(ARGV[3])) do
  set_state(node.id, 'blocked')
  write_step(node.id, {fence = 0, losses = 0, tries = 0, priority = node.priority,
    ephemeral = node.ephemeral or nil})
  redis.call('HSET', WAITING, node.id, node.parents)
  if #node.children > 0 then
    redis.call('HSET', CHILDREN, node.id, cjson.encode(node.children))
  end
end
redis.call('HSET', CHILDREN, '@start', ARGV[4])
return 1
