-- wrk -s requests.lua URL -- SETS HEADER…: each request carries the headers that all share, and behind them those of its own
-- line in the file SETS, parted there by tabs.
--
-- All requests are put together before wrk's clock starts, so that picking the next one is all that is left to do for each.

local requests, last = {}, 0

function init(arguments)
  local shared = { "GET " .. wrk.path .. " HTTP/1.1" }
  for number = 2, #arguments do
    shared[number] = arguments[number]
  end
  local head = table.concat(shared, "\r\n") .. "\r\n"
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = head .. line:gsub("\t", "\r\n") .. "\r\n\r\n"
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end
