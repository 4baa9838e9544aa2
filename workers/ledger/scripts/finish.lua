-- Store a step's result and make the steps ready that waited for it. Repeating the call changes nothing.
-- ARGV: run, step, fence, result JSON or '', attempt JSON, move JSON:
--   {word, blocks, stop, final, final_state, facts{}, cache[], nodes}, seconds to keep an ended run
even_when_full()
local step, fence, move = ARGV[2], tonumber(ARGV[3]), cjson.decode(ARGV[6])
local data = read_step(step)
local run_state = run_field('state')
if not run_state then return cjson.encode({accepted = false, reason = 'unknown run'}) end
if data.fence ~= fence then return cjson.encode({accepted = false, reason = 'fence lost'}) end
local state = state_of(step)
if state == 'done' then return cjson.encode({accepted = true, replay = true, publish = dispatch()}) end
if not is_live(run_state) then return cjson.encode({accepted = false, reason = 'run has ended'}) end
if state ~= 'running' then return cjson.encode({accepted = false, reason = 'step is ' .. state}) end

set_state(step, 'done')
unwatch(step)
if ARGV[4] ~= '' then redis.call('HSET', RESULTS, step, ARGV[4]) end
if ARGV[5] ~= '' then redis.call('RPUSH', ATTEMPTS, ARGV[5]) end
for _, change in ipairs(move.cache or {}) do redis.call('RPUSH', CACHE, change) end
publish({kind = 'state', node = step, state = move.word, attempt = data.tries, worker = data.owner})

if move.facts then
  for name, value in pairs(move.facts) do redis.call('HSET', RUN, name, value) end
end
if move.final then
  end_run(move.final_state, move.final, tonumber(ARGV[7]))
  return cjson.encode({accepted = true, publish = dispatch()})
end
if step == '@plan' then
  redis.call('HSET', RUN, 'planned', '1', 'pending', move.nodes, 'total', move.nodes, 'blocked', move.nodes)
  if move.nodes > 0 and run_state == 'active' then
    write_step('@start', {fence = 0, losses = 0, tries = 0, priority = -1})
    make_ready('@start')
  elseif move.nodes > 0 then
    stop_run(run_field('stop'))
  end
elseif is_node(step) then
  redis.call('HINCRBY', RUN, 'done', 1)
end

-- With --fail-fast, dbt notices a failure when it takes the next node from its queue, or at once when it has taken all
-- (dbt.task.runnable.GraphRunnableTask.run_queue). Until then it executes the nodes that it took: all that were ready.
-- So the run stops when another node becomes ready, or when no node is left to become ready.
if move.stop and run_state == 'active' then
  if is_node(step) then
    redis.call('HSET', RUN, 'failing', move.stop)
  else
    stop_run(move.stop)
  end
end
local failing = run_field('state') == 'active' and run_field('failing')
local beside, released = failing and nodes_beside() or {}, 0
if run_field('state') == 'active' then
  -- dbt skips every descendant of a failure and names the failure that finished last. Each step passes the mark to its
  -- children. A node begins after all of its parents, so by then it has the mark of every failure above it.
  local cause, since = data.cause, data.since
  if move.blocks then cause, since = step, number_field('seq') end
  local raw = redis.call('HGET', CHILDREN, step)
  local children = raw and cjson.decode(raw) or {}
  for _, child in ipairs(cause and children or {}) do
    local below = read_step(child)
    if since > (below.since or 0) then
      below.skip, below.cause, below.since = true, cause, since
      write_step(child, below)
    end
  end
  for first = 1, #children, MANY do
    local some = {unpack(children, first, math.min(first + MANY - 1, #children))}
    local counts, free = {}, {}
    for i, left in ipairs(redis.call('HMGET', WAITING, unpack(some))) do
      counts[2 * i - 1], counts[2 * i] = some[i], tonumber(left or '0') - 1
      if counts[2 * i] == 0 then free[#free + 1] = some[i] end
    end
    redis.call('HSET', WAITING, unpack(counts))
    make_nodes_ready(free)
    released = released + #free
  end
  local blocked = number_field('blocked') - released
  redis.call('HSET', RUN, 'blocked', blocked)
  -- dbt takes a unit test and its model from its queue together
  local is_next = released > 0 and string.sub(step, 1, 10) ~= 'unit_test.'
  if failing and (is_next or blocked <= 0) then stop_run(failing, give_grace(beside, data)) end
end
close_when_done()
return cjson.encode({accepted = true, publish = dispatch()})
