-- Let workers of any release of dbt end a run that is being stopped: none is left of the release that planned it.
-- ARGV: run. Answers whether it is so.
even_when_full()
if run_field('state') ~= 'stopping' then return 0 end
redis.call('HDEL', RUN, 'dbt')
redis.call('HSET', RUN, 'orphaned', '1')
return 1
