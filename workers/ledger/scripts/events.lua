-- Append lines to a run's stream and publish them live; append records of dbt's log file to the log stream.
-- Repeating a batch adds nothing.
-- ARGV: run, publisher, number of the batch's first item (from 1), then the items: an event (a JSON object), or
-- records of the log file (a JSON list).
if redis.call('EXISTS', RUN) == 0 then return 0 end
local last = tonumber(redis.call('HGET', PUBLISHERS, ARGV[2]) or '0')
local first = tonumber(ARGV[3])
local added = 0
for i = 4, #ARGV do
  if first + i - 4 <= last then
    -- added before
  elseif string.sub(ARGV[i], 1, 1) == '[' then
    if redis.call('XLEN', LOG) < LOG_LENGTH then
      redis.call('XADD', LOG, '*', 'r', ARGV[i])
      redis.call('EXPIRE', LOG, LOG_SECONDS)
      added = added + 1
    else
      redis.call('HINCRBY', RUN, 'log_dropped', 1)
    end
  else
    local seq = redis.call('HINCRBY', RUN, 'seq', 1)
    redis.call('XADD', EVENTS, 'MAXLEN', '~', STREAM_LENGTH, '*', 's', seq, 'e', ARGV[i])
    redis.call('PUBLISH', CHANNEL, seq .. ' ' .. ARGV[i])
    added = added + 1
  end
end
redis.call('HSET', PUBLISHERS, ARGV[2], math.max(last, first + #ARGV - 4))
local left = redis.call('PTTL', RUN)
if left > 0 then redis.call('PEXPIRE', PUBLISHERS, left) end  -- published after the run ended
return added
