-- One call of the state store, as one atomic step. base.py has the protocol, memory.py does the same in Python.
--
-- KEYS[1] is the prefix of all keys of the consumer group:
--   last     hash: aggregate to the last sequence number that is done
--   token    string: the greatest fencing token
--   lease    hash: aggregate to "token ends_at owner"
--   parked   string: how many messages wait in all waiting rooms
--   size     hash: aggregate to how many messages wait for it
--   room:A   sorted set: the waiting messages of aggregate A by sequence number, each as "sequence:message"
--   gaps     sorted set: aggregates whose lowest waiting message is not the next one, scored by the time when that began
--   ready    sorted set: aggregates whose next message waits, scored by the time when that began
--   knock:M  set: aggregates of member M for which other members have parked messages; expires
-- All times are milliseconds. `_arguments` in redis.py lists the arguments.

local base, owner = KEYS[1], ARGV[1]
local lease_ms, now = tonumber(ARGV[2]), tonumber(ARGV[3])
local room_limit, group_limit, before_first = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local writes, drops, parks, claims = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local take_limit, scan_limit = tonumber(ARGV[11]), tonumber(ARGV[12])
local scan_start, gap_ms = tonumber(ARGV[13]), tonumber(ARGV[14])
local writes_at = 15
local drops_at = writes_at + writes * 2
local parks_at = drops_at + drops * 2
local claims_at = parks_at + parks * 3
local KNOCK_MS = 60000
local CHUNK = 1000

if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Lua would write a great number as 1e+15.
local function whole(number)
  return string.format('%.0f', number)
end

-- Read what is known of the aggregates of this call: one HMGET for each hash, not one HGET for each aggregate.

local keys, last, token_of, ends_at, owner_of, size = {}, {}, {}, {}, {}, {}

local function mention(key)
  if size[key] == nil then
    size[key] = 0
    keys[#keys + 1] = key
  end
end

for i = 0, writes - 1 do mention(ARGV[writes_at + i * 2]) end
for i = 0, parks - 1 do mention(ARGV[parks_at + i * 3]) end
for i = 0, claims - 1 do mention(ARGV[claims_at + i]) end

for from = 1, #keys, CHUNK do
  local to = math.min(from + CHUNK - 1, #keys)
  local lasts = redis.call('HMGET', base .. 'last', unpack(keys, from, to))
  local leases = redis.call('HMGET', base .. 'lease', unpack(keys, from, to))
  local sizes = redis.call('HMGET', base .. 'size', unpack(keys, from, to))
  for i = from, to do
    local key, lease = keys[i], leases[i - from + 1]
    last[key] = tonumber(lasts[i - from + 1] or before_first)
    size[key] = tonumber(sizes[i - from + 1] or 0)
    if lease then
      local token, ends, who = string.match(lease, '^(%d+) (%d+) (.*)$')
      token_of[key], ends_at[key], owner_of[key] = token, tonumber(ends), who
    end
  end
end

local parked_before = tonumber(redis.call('GET', base .. 'parked') or 0)
local parked = parked_before
local changed, changed_keys, advanced = {}, {}, {}

local function change(key, by)
  size[key] = size[key] + by
  parked = parked + by
  if not changed[key] then
    changed[key] = true
    changed_keys[#changed_keys + 1] = key
  end
end

local function remove(key, low, high)
  if size[key] > 0 then
    change(key, -redis.call('ZREMRANGEBYSCORE', base .. 'room:' .. key, low, high))
  end
end

-- The member that holds the aggregate, or nil if nobody does or its lease has ended.
local function holder(key)
  if ends_at[key] and ends_at[key] > now then return owner_of[key] end
  return nil
end

local new_last, new_leases, gone_leases = {}, {}, {}

local function set_lease(key, token)
  token_of[key], ends_at[key], owner_of[key] = token, now + lease_ms, owner
  new_leases[#new_leases + 1] = key
  new_leases[#new_leases + 1] = token .. ' ' .. whole(ends_at[key]) .. ' ' .. owner
end

-- Writes count only under the lease. The owner is compared as well as the token: a Redis that has lost data may give the
-- same token twice.

local written, counting = {}, {}
for i = 0, writes - 1 do
  local key = ARGV[writes_at + i * 2]
  local token, done, known, take, release = string.match(ARGV[writes_at + i * 2 + 1], '^(%d+) (%S*) (%S+) (%a) (%d)$')
  if token_of[key] == token and owner_of[key] == owner then
    counting[key] = {take, known}
    written[#written + 1] = '1'
    if release == '1' then
      ends_at[key] = nil
      gone_leases[#gone_leases + 1] = key
    else
      set_lease(key, token)
    end
    if done ~= '' and tonumber(done) > last[key] then
      last[key] = tonumber(done)
      new_last[#new_last + 1] = key
      new_last[#new_last + 1] = done
      advanced[key] = true
      remove(key, '-inf', done)
    end
  else
    written[#written + 1] = '0'
  end
end

for i = 0, drops - 1 do
  local key, sequence = ARGV[drops_at + i * 2], ARGV[drops_at + i * 2 + 1]
  if counting[key] then remove(key, sequence, sequence) end
end

-- Parks: put messages into waiting rooms, and tell the member that holds the aggregate.

local became, knocks = {}, {}
for i = 0, parks - 1 do
  local at = parks_at + i * 3
  local key, sequence = ARGV[at], ARGV[at + 1]
  local room = base .. 'room:' .. key
  if tonumber(sequence) <= last[key] then
    became[#became + 1] = 'l'
  elseif size[key] > 0 and redis.call('ZCOUNT', room, sequence, sequence) > 0 then
    became[#became + 1] = 'd'
  elseif size[key] >= room_limit or parked >= group_limit then
    became[#became + 1] = 'f'
  else
    redis.call('ZADD', room, sequence, sequence .. ':' .. ARGV[at + 2])
    change(key, 1)
    became[#became + 1] = 'p'
    local who = holder(key)
    if who and who ~= owner then
      redis.call('SADD', base .. 'knock:' .. who, key)
      knocks[who] = true
    end
  end
end
for who in pairs(knocks) do redis.call('PEXPIRE', base .. 'knock:' .. who, KNOCK_MS) end

-- Claims: granted if nobody else holds the aggregate.

local claimed, granted = {}, {}
if claims > 0 then
  local token = tonumber(redis.call('GET', base .. 'token') or 0)
  for i = 0, claims - 1 do
    local key = ARGV[claims_at + i]
    local who = holder(key)
    if who and who ~= owner then
      claimed[#claimed + 1] = '-'
    else
      token = token + 1
      set_lease(key, whole(token))
      granted[#granted + 1] = key
      claimed[#claimed + 1] = whole(token) .. ' ' .. whole(last[key])
    end
  end
  redis.call('SET', base .. 'token', whole(token))
end

-- For each waiting room that has changed: is its lowest message the next one (ready), or is one missing before it (gap)?
-- Progress makes a gap new.

local free = {}
for _, key in ipairs(changed_keys) do
  local lowest = redis.call('ZRANGE', base .. 'room:' .. key, 0, 0, 'WITHSCORES')[2]
  if not lowest then
    redis.call('ZREM', base .. 'gaps', key)
    redis.call('ZREM', base .. 'ready', key)
  elseif tonumber(lowest) == last[key] + 1 then
    redis.call('ZREM', base .. 'gaps', key)
    redis.call('ZADD', base .. 'ready', 'NX', now, key)
    if not holder(key) then free[#free + 1] = key end
  else
    redis.call('ZREM', base .. 'ready', key)
    if advanced[key] then
      redis.call('ZADD', base .. 'gaps', now, key)
    else
      redis.call('ZADD', base .. 'gaps', 'NX', now, key)
    end
  end
end

-- Read waiting messages, as the writes and claims ask for. take is "a" (from the lowest), "x" (the next ones without a
-- gap) or "n" (none).

local waiting = {}
local function look(key, take, known)
  if size[key] <= 0 then return end
  local room = base .. 'room:' .. key
  local lowest = redis.call('ZRANGE', room, 0, 0, 'WITHSCORES')[2]
  local since = redis.call('ZSCORE', base .. 'gaps', key) or redis.call('ZSCORE', base .. 'ready', key) or now
  local next_one = math.max(last[key], known) + 1
  local low = take == 'a' and '-inf' or whole(next_one)
  local found = redis.call('ZRANGEBYSCORE', room, low, '+inf', 'WITHSCORES', 'LIMIT', 0, take_limit)
  local messages = {}
  for i = 1, #found, 2 do
    if take ~= 'a' and tonumber(found[i + 1]) ~= next_one then break end
    messages[#messages + 1] = found[i]
    next_one = next_one + 1
  end
  waiting[#waiting + 1] = {key, whole(tonumber(lowest)), whole(now - tonumber(since)), messages}
end

for i = 0, writes - 1 do
  local key = ARGV[writes_at + i * 2]
  local asked = counting[key]
  if asked and asked[1] ~= 'n' then look(key, asked[1], tonumber(asked[2])) end
end
for _, key in ipairs(granted) do look(key, 'x', last[key]) end

-- Write what has changed, in chunks: unpack() takes only some thousand values.

local function in_chunks(command, name, values)
  for from = 1, #values, CHUNK do
    redis.call(command, base .. name, unpack(values, from, math.min(from + CHUNK - 1, #values)))
  end
end

local sizes, empty = {}, {}
for _, key in ipairs(changed_keys) do
  if size[key] > 0 then
    sizes[#sizes + 1] = key
    sizes[#sizes + 1] = size[key]
  else
    empty[#empty + 1] = key
  end
end
in_chunks('HSET', 'last', new_last)
in_chunks('HSET', 'lease', new_leases)
in_chunks('HDEL', 'lease', gone_leases)
in_chunks('HSET', 'size', sizes)
in_chunks('HDEL', 'size', empty)
if parked ~= parked_before then redis.call('SET', base .. 'parked', whole(parked)) end

local knocked = redis.call('SMEMBERS', base .. 'knock:' .. owner)
if #knocked > 0 then redis.call('DEL', base .. 'knock:' .. owner) end
for _, key in ipairs(free) do knocked[#knocked + 1] = key end

-- The overview of the group, if a scan is asked for.

local overview = {}
if scan_limit > 0 then
  local function ours_or_free(found)
    local kept = {}
    for _, key in ipairs(found) do
      local lease = redis.call('HGET', base .. 'lease', key)
      local _, ends, who = string.match(lease or '', '^(%d+) (%d+) (.*)$')
      if not ends or tonumber(ends) <= now or who == owner then kept[#kept + 1] = key end
    end
    return kept
  end
  local gaps, ready = base .. 'gaps', base .. 'ready'
  local old = whole(now - gap_ms)
  local oldest = redis.call('ZRANGE', gaps, 0, 0, 'WITHSCORES')[2]
  local gap_count = redis.call('ZCARD', gaps)
  overview = {
    ours_or_free(redis.call('ZRANGE', ready, scan_start, scan_start + scan_limit - 1)),
    ours_or_free(redis.call('ZRANGEBYSCORE', gaps, '-inf', old, 'LIMIT', scan_start, scan_limit)),
    gap_count,
    redis.call('ZCOUNT', gaps, '-inf', old),
    parked,
    oldest and whole(now - tonumber(oldest)) or '0',
    gap_count + redis.call('ZCARD', ready),
  }
end

return {table.concat(written), table.concat(became), table.concat(claimed, ','), waiting, knocked, overview}
