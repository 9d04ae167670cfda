-- A whole trace of 98 events a request, each under a run of its own.
local sent = 0
local head, tail

init = function()
  local events = { '{"seq": 0, "type": "start", "time": 1789000000000.5}' }
  for seq = 1, 96 do
    events[#events + 1] = string.format(
      '{"seq": %d, "type": "step", "step_name": "step-%d", "time": %d.5}', seq, seq % 12, 1789000000000 + seq * 50)
  end
  events[#events + 1] = '{"seq": 97, "type": "end", "time": 1789000005000.5}'
  head = '{"sent_at": 1789000005100.5, "traces": [{"trace_tag": "bench", "run": "'
  tail = '", "service": "bench", "events": [' .. table.concat(events, ",") .. "]}]}"
  math.randomseed(os.time())
end

request = function()
  sent = sent + 1
  local run = string.format("%08x%08x", math.random(0, 2147483647), sent)
  return wrk.format("POST", "/api/tracing/batch", nil, head .. run .. tail)
end
