#!lua flags=no-writes
-- Who leads a run. KEYS[1]: what the run's keys begin with.
if redis.call('EXISTS', KEYS[1] .. 'lead') == 0 then return {'ok', 'nobody'} end
return {'ok', redis.call('HGET', KEYS[1] .. 'meta', 'leader')}
