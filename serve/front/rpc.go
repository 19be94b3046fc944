package front

import (
	"context"
	"encoding/binary"
	"strconv"

	"liege/serve/exchange"
)

// uWSGI's calls of functions: a packet with modifier1 173 whose words, each
// with its length, are a function's name and its arguments. The answer is, for
// modifier2 0, a packet's head with the length of the result, and the result;
// one of 64 KiB and more has modifier2 5 and its length in a variable. For
// another modifier2 it is the result alone. Where there is no result, or an
// empty one, the connection ends without an answer: so uWSGI's peers expect it.
const (
	modRPC     = exchange.ToFunction
	longResult = 5

	rpcByPath, rpcXML = 2, 3 // forms of modifier2 that are not served

	maxWords = 255
)

// serveRPC calls the function that a packet names. Whoever may speak the
// protocol to this listener may call what the application has registered.
func (c *conn) serveRPC(ctx context.Context, b []byte) {
	words, ok := packetWords(string(b))
	switch {
	case !ok:
		c.s.hint(hintModifier, "a malformed call of a function came", "", c.nc)
		return
	case c.modifier2 == rpcByPath || c.modifier2 == rpcXML:
		c.s.hint(hintModifier, "a call of a function by URL or XML-RPC came", "only packets with a name and arguments are served", c.nc)
		return
	}
	c.serving()
	c.s.active.Add(1)
	defer c.s.active.Add(-1)
	out, err := c.s.cfg.Call(ctx, words[0], words[1:])
	if err != nil {
		c.s.cfg.Log.Warn("a peer's call of a function", "function", clip(words[0]), "peer", c.nc.RemoteAddr().String(), "err", err)
	}
	if out == "" {
		return
	}
	_ = c.write(rpcAnswer(out, c.modifier2)) // the peer is gone: nobody to tell
}

// rpcAnswer is the answer with a function's result.
func rpcAnswer(out string, modifier2 uint8) []byte {
	if modifier2 != 0 {
		return []byte(out)
	}
	if len(out) < 1<<16 {
		return append([]byte{modRPC, byte(len(out)), byte(len(out) >> 8), 0}, out...)
	}
	vars := packetText(packetText(nil, "CONTENT_LENGTH"), strconv.Itoa(len(out)))
	return append(append([]byte{modRPC, byte(len(vars)), byte(len(vars) >> 8), longResult}, vars...), out...)
}

func packetText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...)
}

// packetWords are the strings of a packet: one at least.
func packetWords(s string) (words []string, ok bool) {
	for s != "" {
		var w string
		if w, s, ok = packetString(s); !ok || len(words) == maxWords {
			return nil, false
		}
		words = append(words, w)
	}
	return words, len(words) > 0
}

func clip(s string) string { return s[:min(len(s), 60)] }
