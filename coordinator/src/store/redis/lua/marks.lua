#!lua flags=no-writes
-- What people said. KEYS[1]: what the run's keys begin with.
return {'ok', redis.call('HVALS', KEYS[1] .. 'marks')}
