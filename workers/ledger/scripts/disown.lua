-- Let workers of any dbt release end a run that is being stopped: no worker has the release that planned it.
-- ARGV: run. Returns 1 if the run was being stopped, else 0.
even_when_full()
if run_field('state') ~= 'stopping' then return 0 end
redis.call('HDEL', RUN, 'dbt')
redis.call('HSET', RUN, 'orphaned', '1')
return 1
