package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// What a function of another instance may send back, and for how long it is
// waited for at all.
const maxResult = 1 << 20

// modRPC is the uwsgi protocol's modifier of a call; longResult is modifier2
// of an answer whose length is in a variable.
const modRPC, longResult = 173, 5

var errNoResult = errors.New("the function is not there, failed, or returned nothing")

// Call calls a function of the instance at addr over the uwsgi protocol, as
// uWSGI does: see front's rpc.go. It takes no longer than Limits.Silence.
func (c *Client) Call(ctx context.Context, addr, name string, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.limits.Silence)
	defer cancel()
	packet := make([]byte, 4, 64)
	for _, w := range append([]string{name}, args...) {
		if len(w) >= 1<<16 {
			return "", errLongCall
		}
		packet = append(binary.LittleEndian.AppendUint16(packet, uint16(len(w))), w...)
	}
	size := len(packet) - 4
	if size >= 1<<16 {
		return "", errLongCall
	}
	packet[0], packet[1], packet[2] = modRPC, byte(size), byte(size>>8)
	nc, err := c.dial(ctx, addr)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	if _, err = nc.Write(packet); err != nil {
		return "", fmt.Errorf("upstream %s: %w", addr, err)
	}
	out, err := readResult(nc)
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not answer within %v", c.limits.Silence)
	}
	if err != nil {
		return "", fmt.Errorf("upstream %s: %w", addr, err)
	}
	return out, nil
}

var errLongCall = errors.New("a call of another instance has at most 65535 bytes")

// readResult reads the answer to a call.
func readResult(r io.Reader) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = errNoResult
		}
		return "", err
	}
	b := make([]byte, int(head[1])|int(head[2])<<8)
	_, err := io.ReadFull(r, b)
	switch {
	case err != nil:
		return "", fmt.Errorf("the result is cut: %w", err)
	case head[0] != modRPC:
		return "", fmt.Errorf("it answers with modifier %d", head[0])
	case head[3] == longResult:
		n, err := resultLength(b)
		if err != nil {
			return "", err
		}
		b = make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return "", fmt.Errorf("the result is cut: %w", err)
		}
	case head[3] != 0:
		return "", fmt.Errorf("it answers with modifier2 %d", head[3])
	}
	if len(b) == 0 {
		return "", errNoResult
	}
	return string(b), nil
}

// resultLength is CONTENT_LENGTH of an answer's variables.
func resultLength(b []byte) (int, error) {
	for name := ""; len(b) > 0; {
		if len(b) < 2 || len(b)-2 < int(binary.LittleEndian.Uint16(b)) {
			break
		}
		n := int(binary.LittleEndian.Uint16(b))
		word := string(b[2 : 2+n])
		b = b[2+n:]
		if name == "" {
			name = word
			continue
		}
		if name == "CONTENT_LENGTH" {
			n, err := strconv.Atoi(word)
			if err != nil || n < 0 || n > maxResult {
				return 0, fmt.Errorf("the result has %.20q bytes; at most %d are taken", word, maxResult)
			}
			return n, nil
		}
		name = ""
	}
	return 0, errors.New("the answer does not say how long it is")
}
