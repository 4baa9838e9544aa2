-- Follows the prelude in the head of every script: the files of a run, who has them, and who waits for them.
-- A single-process warehouse is one or several files. Each belongs to a run from its first session to its end.
-- A file that is opened for writing belongs to one run; one that is only read may belong to several that read it.
-- `names` is a run's field `lock`: a file a line, 'read ' before the name of one that the run only reads.
local function files_of(names)
  local files = {}
  for name in string.gmatch(names or '', '[^\n]+') do
    local read = string.match(name, '^read (.*)$')
    local lock, waiters = lock_keys(read or name)
    files[#files + 1] = {lock = lock, waiters = waiters, readers = lock .. ':readers', reads = read ~= nil}
  end
  return files
end

local function own_files()
  return files_of(run_field('lock'))
end

-- What is known of this run's hold of a file: {fence, expires, holder}, or nil.
local function hold_of(file)
  if file.reads then
    local raw = redis.call('HGET', file.readers, RUN_ID)
    return raw and cjson.decode(raw) or nil
  end
  local held = redis.call('HMGET', file.lock, 'run', 'fence', 'expires', 'holder')
  if held[1] ~= RUN_ID then return nil end
  return {fence = tonumber(held[2]), expires = tonumber(held[3]), holder = held[4] or nil}
end

local function write_hold(file, hold)
  if file.reads then
    redis.call('HSET', file.readers, RUN_ID, cjson.encode(hold))
  else
    redis.call('HSET', file.lock, 'run', RUN_ID, 'fence', hold.fence, 'expires', hold.expires)
    if hold.holder then
      redis.call('HSET', file.lock, 'holder', hold.holder)
    else
      redis.call('HDEL', file.lock, 'holder')
    end
  end
end

-- All of a run's files are taken in one script and let go in one.
local function holds_files(files)
  for _, file in ipairs(files) do
    if not hold_of(file) then return false end
  end
  return #files > 0
end

local function keeps(run, expires)
  return run ~= RUN_ID and (redis.call('ZSCORE', ACTIVE, run) or tonumber(expires or 0) > now_ms())
end

-- Whether another run has the file, or is before this one in its line. Lines are joined and left for all of a
-- run's files at once, so the run that has waited longest is first in each of its lines, and nothing deadlocks.
local function is_taken(file)
  if hold_of(file) then return false end
  local writer = redis.call('HMGET', file.lock, 'run', 'expires')
  if writer[1] and keeps(writer[1], writer[2]) then return true end
  local readers = file.reads and {} or redis.call('HGETALL', file.readers)
  for i = 1, #readers, 2 do
    if keeps(readers[i], cjson.decode(readers[i + 1]).expires) then return true end
  end
  local first = first_in_line(file.waiters)
  return first and first ~= RUN_ID
end

local function are_taken(files)
  for _, file in ipairs(files) do
    if is_taken(file) then return true end
  end
  return false
end

-- A process that had a file and did not say that it closed it may have it open still.
local function suspect(holder)
  if not holder then return end
  redis.call('HSET', STRAYS, holder, now_ms())
  redis.call('EXPIRE', STRAYS, STRAY_SECONDS)
end

-- Before a run takes a file: what others left there who hold it no more.
local function clear_holds(file)
  suspect(redis.call('HGET', file.lock, 'holder'))
  redis.call('HDEL', file.lock, 'holder')
  if file.reads then
    if redis.call('HEXISTS', file.lock, 'run') == 1 then redis.call('DEL', file.lock) end
    local own = hold_of(file)
    return suspect(own and own.holder)
  end
  local readers = redis.call('HGETALL', file.readers)
  for i = 1, #readers, 2 do
    suspect(cjson.decode(readers[i + 1]).holder)
    redis.call('HDEL', file.readers, readers[i])
  end
end

-- The first in the line of a file that nobody writes is told to try. It stays in line until it has all of its files.
local function let_in(file)
  local writer = redis.call('HMGET', file.lock, 'run', 'expires')
  local first = not (writer[1] and keeps(writer[1], writer[2])) and first_in_line(file.waiters)
  if first then wake(first .. ' @session') end
end

-- What this run has goes to those who wait for it.
local function release_files(files)
  for _, file in ipairs(files) do
    local hold = hold_of(file)
    if hold then
      suspect(hold.holder)
      if file.reads then
        redis.call('HDEL', file.readers, RUN_ID)
      else
        redis.call('DEL', file.lock)
      end
    end
    let_in(file)
  end
end

-- Somebody stops an active run. Returns the steps whose messages the caller has to publish.
local function cancel_run(reason)
  stop_run(reason)
  publish({kind = 'run', state = 'stopping'})
  if run_field('mode') == 'session' then
    local files = own_files()
    if not holds_files(files) then
      -- the run never opened its files and needs them no longer: any worker may end it
      for _, file in ipairs(files) do
        redis.call('LREM', file.waiters, 0, RUN_ID)
        let_in(file)
      end
      unwatch('@session')
      set_state('@session', 'blocked')
      redis.call('HSET', RUN, 'mode', 'message')
    end
  end
  close_when_done()
  return dispatch()
end
