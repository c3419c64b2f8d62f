-- How the episode ARGV[2] stands. Its journal is the list T; while a second attempt, its rival, is
-- live beside the first, the rival has the list R, until one of them wins.
local ID = ARGV[2]
local E, T, R = P .. 'e:' .. ID, P .. 't:' .. ID, P .. 'r:' .. ID
local found = redis.call('HMGET', E, 'plan', 'status', 'attempt', 'rival')
local status, attempt, rival = found[2], found[3], found[4]
if not attempt then
  -- Never started: its plan may be half written.
  local at, by = string.match(found[1] or '', '^(.-)@(.*)$')
  if not at or redis.call('HGET', P .. 'i:' .. at, 'plan') ~= by then return {'no_work'} end
  attempt = '0'
end
local highest = rival or attempt

-- The list of a live attempt's journal.
local function journal(number)
  if number == attempt then return T end
  return number == rival and R
end

local function drop_rival()
  if not rival then return end
  redis.call('DEL', R)
  redis.call('HDEL', E, 'rival')
  rival = false
end

-- The rival's journal becomes the episode's.
local function promote_rival()
  redis.call('DEL', T)
  if redis.call('EXISTS', R) == 1 then redis.call('RENAME', R, T) end
  redis.call('HDEL', E, 'rival')
  attempt, rival = rival, false
end
