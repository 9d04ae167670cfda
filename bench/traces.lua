-- Whole traces of three steps, one after the other, from each thread; run with one connection a thread.
local threads = 0

setup = function(thread)
  thread:set("number", threads)
  threads = threads + 1
end

-- wrk asks for one request that it never sends, so the first start comes twice.
local sent = -1
local bodies = {
  { "start", '{"trace_tag": "outage", "trace_id": "%d-%d"}' },
  { "step", '{"trace_tag": "outage", "trace_id": "%d-%d", "step_name": "cart"}' },
  { "step", '{"trace_tag": "outage", "trace_id": "%d-%d", "step_name": "address"}' },
  { "step", '{"trace_tag": "outage", "trace_id": "%d-%d", "step_name": "payment"}' },
  { "end", '{"trace_tag": "outage", "trace_id": "%d-%d"}' },
}

request = function()
  local event_number = math.max(sent, 0)
  local trace, event = math.floor(event_number / 5), event_number % 5 + 1
  sent = sent + 1
  return wrk.format("POST", "/api/tracing/" .. bodies[event][1], nil, string.format(bodies[event][2], number, trace))
end
