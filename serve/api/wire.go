package api

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A process of the application reaches the core over the door: a
// SOCK_SEQPACKET pair whose other end all of them inherit. A packet of one
// byte, the version, with one descriptor: an end of a fresh stream pair, which
// from then on carries frames. There is one connection per thread that asks,
// and one more for what the core tells (frame W).
//
//	request  u32 size of what follows | u8 what | fields
//	answer   u32 size of what follows | u8 how  | fields
//	field    u32 size | bytes            numbers: 8 bytes; all little-endian
//
// Each request gets one answer, in order: how is ok, none (there is nothing,
// or false) or bad (one field: why). The first request of a connection is a
// hello. See the op constants for the requests. What does not keep to this
// closes the connection; nothing else happens to the core.
const version = 1

// Limits of a connection.
const (
	maxFrame  = 16 << 20 // bytes; a cache's value may be as long
	bigFrame  = 64 << 10 // from here on a frame needs one of the few big buffers
	maxFields = 4096     // of one frame
	maxBig    = 4        // frames longer than bigFrame, at once
	maxConns  = 2048     // connections at once
)

// What an answer is.
const (
	ok   byte = 0
	none byte = 1
	bad  byte = 2
)

// What a request asks for. "n" is a number, "→" the fields of the answer.
const (
	opHello   = 'h' // role (w: worker, m: mule, s: spooler, l: loader or another), number n, pid n
	opGet     = 'G' // cache, key → value
	opExists  = 'X' // cache, key
	opSet     = 'S' // cache, key, value, seconds n, 1 to replace n
	opDel     = 'D' // cache, key
	opClear   = 'C' // cache
	opKeys    = 'K' // cache → keys
	opNumber  = 'N' // cache, key, kind (+ - * /), by n, seconds n → number n
	opNum     = 'n' // cache, key → number n
	opLock    = 'L' // lock n: waits
	opUnlock  = 'U' // lock n
	opLocked  = 'I' // lock n
	opSignal  = 's' // signal n
	opHandle  = 'R' // signal n, target
	opHandled = 'r' // signal n
	opTimer   = 'T' // signal n, milliseconds n, times n (0: for ever)
	opCron    = 'c' // signal, minute, hour, day, month, week: n
	opFile    = 'F' // signal n, path
	opMule    = 'M' // mule n (0: any), message
	opFarm    = 'f' // farm, message
	opNext    = 'W' // mask n → kind (s: signal, m: message, f: of a farm, p: poke), bytes: waits
	opPoke    = 'P' // spooler's directory: there is a task
	opBusy    = 'B' // 1: begins a task, 0: has ended it
	opDeadly  = 'H' // seconds n until this process is killed; 0: not any more
	opMetric  = 'm' // kind (g = + - * / < >), name, by n → number n
	opWorkers = 'w' // → ten numbers and two texts for each worker
	opPids    = 'p' // s or m → pids of spoolers or mules
	opTotal   = 't' // → requests of all workers n
	opQueue   = 'q' // → connections that wait n
	opRing    = 'Q' // kind (+ - < = ! l s p), place or count n, message → message, messages or place n; see ring
	opReload  = 'l' // a new generation
	opStop    = 'o' // the vassal ends
	opAlarm   = 'a' // name, text
)

// frame is a request, or an answer. Its fields point into buf.
type frame struct {
	op     byte
	fields [][]byte
	buf    []byte
}

var errFrame = errors.New("no frame of the services' protocol")

// size reads the length of the next frame.
func readSize(r *bufio.Reader) (int, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint32(b[:])
	if n == 0 || n > maxFrame {
		return 0, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	return int(n), nil
}

// read reads the n bytes of a frame.
func (f *frame) read(r *bufio.Reader, n int) error {
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	if _, err := io.ReadFull(r, f.buf); err != nil {
		return err
	}
	return f.parse()
}

// parse splits buf.
func (f *frame) parse() error {
	if len(f.buf) == 0 {
		return errFrame
	}
	f.op, f.fields = f.buf[0], f.fields[:0]
	for b := f.buf[1:]; len(b) > 0; {
		if len(b) < 4 || len(f.fields) == maxFields {
			return errFrame
		}
		n := binary.LittleEndian.Uint32(b)
		if uint64(n) > uint64(len(b)-4) {
			return errFrame
		}
		f.fields = append(f.fields, b[4:4+n])
		b = b[4+n:]
	}
	return nil
}

// text is field i; empty where there is none.
func (f *frame) text(i int) string {
	if i >= len(f.fields) {
		return ""
	}
	return string(f.fields[i])
}

// number is field i as a number; false where it is none.
func (f *frame) number(i int) (int64, bool) {
	if i >= len(f.fields) || len(f.fields[i]) != 8 {
		return 0, false
	}
	return int64(binary.LittleEndian.Uint64(f.fields[i])), true
}

// small is a number in [least, most].
func (f *frame) small(i, least, most int) (int, bool) {
	n, ok := f.number(i)
	if !ok || n < int64(least) || n > int64(most) {
		return 0, false
	}
	return int(n), true
}

// answer builds an answer in b.
type answer struct{ b []byte }

func (a *answer) begin(how byte) { a.b = append(a.b[:0], 0, 0, 0, 0, how) }

func (a *answer) field(p []byte) {
	a.b = binary.LittleEndian.AppendUint32(a.b, uint32(len(p)))
	a.b = append(a.b, p...)
}

func (a *answer) text(s string) {
	a.b = binary.LittleEndian.AppendUint32(a.b, uint32(len(s)))
	a.b = append(a.b, s...)
}

func (a *answer) number(n int64) {
	a.b = binary.LittleEndian.AppendUint32(a.b, 8)
	a.b = binary.LittleEndian.AppendUint64(a.b, uint64(n))
}

func (a *answer) refuse(format string, args ...any) {
	a.begin(bad)
	a.text(fmt.Sprintf(format, args...))
}

// end writes the size; too long an answer becomes a refusal.
func (a *answer) end() []byte {
	if len(a.b)-4 > maxFrame {
		a.refuse("the answer has more than %d bytes", maxFrame)
	}
	binary.LittleEndian.PutUint32(a.b, uint32(len(a.b)-4))
	return a.b
}
