-- A step for each of 64 open traces in turn, as wrk's request.
local sent = 0

request = function()
  sent = sent + 1
  local body = string.format('{"trace_tag": "bench", "trace_id": "%d", "step_name": "cart"}', sent % 64)
  return wrk.format("POST", "/api/tracing/step", nil, body)
end
