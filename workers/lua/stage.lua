-- Put planned nodes in place, in chunks, before the plan step finishes. Replaying a chunk is a no-op.
-- ARGV: run, fence of the plan step, JSON [{id, priority, parents, children, ephemeral, lock}], JSON roots.
if not is_live(run_field('state')) or state_of('@plan') ~= 'running'
  or read_step('@plan').fence ~= tonumber(ARGV[2]) then return 0 end
local staged = run_field('staged')
if staged ~= ARGV[2] then
  if staged then  -- by a plan whose worker was lost: this one may have found other nodes
    for _, step in ipairs(redis.call('HKEYS', STATES)) do
      if is_node(step) then
        redis.call('HDEL', STATES, step)
        redis.call('HDEL', STEPS, step)
      end
    end
    redis.call('DEL', CHILDREN, WAITING)
  end
  redis.call('HSET', RUN, 'staged', ARGV[2])
end
for _, node in ipairs(cjson.decode(ARGV[3])) do
  redis.call('HSET', STATES, node.id, 'blocked')
  write_step(node.id, {fence = 0, losses = 0, tries = 0, priority = node.priority,
    ephemeral = node.ephemeral or nil, lock = node.lock})
  redis.call('HSET', WAITING, node.id, node.parents)
  if #node.children > 0 then
    redis.call('HSET', CHILDREN, node.id, cjson.encode(node.children))
  end
end
redis.call('HSET', CHILDREN, '@start', ARGV[4])
return 1
