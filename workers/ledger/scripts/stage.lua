-- Store planned nodes, in chunks, before the plan step finishes. Repeating a chunk changes nothing.
-- ARGV: run, fence of the plan step, JSON [{id, priority, parents, children, ephemeral, lock}],
--   JSON roots with the last chunk, else ''.
if not is_live(run_field('state')) or state_of('@plan') ~= 'running'
  or read_step('@plan').fence ~= tonumber(ARGV[2]) then return 0 end
local staged = run_field('staged')
if staged ~= ARGV[2] then
  if staged then  -- an earlier plan step, whose worker was lost, may have found other nodes
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
local states, steps, waiting, children = {}, {}, {}, {}
local function add(fields, name, value)
  fields[#fields + 1], fields[#fields + 2] = name, value
end
for _, node in ipairs(cjson.decode(ARGV[3])) do
  add(states, node.id, 'blocked')
  add(steps, node.id, cjson.encode({fence = 0, losses = 0, tries = 0, priority = node.priority,
    ephemeral = node.ephemeral or nil, lock = node.lock}))
  add(waiting, node.id, node.parents)
  if #node.children > 0 then add(children, node.id, cjson.encode(node.children)) end
end
if ARGV[4] ~= '' then add(children, '@start', ARGV[4]) end
for key, fields in pairs({[STATES] = states, [STEPS] = steps, [WAITING] = waiting, [CHILDREN] = children}) do
  for first = 1, #fields, 2 * MANY do
    redis.call('HSET', key, unpack(fields, first, math.min(first + 2 * MANY - 1, #fields)))
  end
end
return 1
