-- Prepended to every script after the prelude: the files of a run, the runs that hold them and the runs in line.
-- A single-process warehouse is one or several files. A run holds its files from its first session to its end.
-- One run holds a file that it writes; several runs may hold a file that they only read.
-- `names` is a run's field `lock`: one file a line, with 'read ' before a file that the run only reads.
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

-- This run's hold of a file: {fence, expires, holder}, or nil.
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

-- A run acquires all of its files in one script and releases them in one.
local function holds_files(files)
  for _, file in ipairs(files) do
    if not hold_of(file) then return false end
  end
  return #files > 0
end

local function keeps(run, expires)
  return run ~= RUN_ID and (redis.call('ZSCORE', ACTIVE, run) or tonumber(expires or 0) > now_ms())
end

-- Whether another run holds the file, or is before this one in its line. A run joins and leaves the lines of all its
-- files at once, so the run that has waited longest is first in each of its lines, and there is no deadlock.
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

-- Record a process that held a file and did not report that it closed it: it may still have it open.
local function suspect(holder)
  if not holder then return end
  redis.call('HSET', STRAYS, holder, now_ms())
  redis.call('EXPIRE', STRAYS, STRAY_SECONDS)
end

-- Remove the holds of earlier runs before a run acquires a file.
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

-- Wake the first run in the line of a file that no run writes. It stays in line until it has all of its files.
local function let_in(file)
  local writer = redis.call('HMGET', file.lock, 'run', 'expires')
  local first = not (writer[1] and keeps(writer[1], writer[2])) and first_in_line(file.waiters)
  if first then wake(first .. ' @session') end
end

-- Release this run's files to the runs in line.
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

-- Stop an active run. Returns the steps whose messages the caller must send.
local function cancel_run(reason)
  stop_run(reason)
  publish({kind = 'run', state = 'stopping'})
  if run_field('mode') == 'session' then
    local files = own_files()
    if not holds_files(files) then
      -- the run never opened its files and does not need them to end: any worker may end it
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
