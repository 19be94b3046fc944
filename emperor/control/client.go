package control

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"liege/vassal"
)

// maxReply bounds a reply line, in bytes.
const maxReply = 4 << 20

// Error is why a command failed. Code is its exit code (CONTRACT 13).
type Error struct {
	Code    int
	Problem vassal.Problem
	Said    bool // the Replies have told it already, vassal by vassal
}

func (e *Error) Error() string { return e.Problem.Error() }

// Unwrap makes vassal.AsProblems see the Problem.
func (e *Error) Unwrap() error { return &e.Problem }

// ExitCode is the exit code that err stands for: 0 for nil, that of an Error,
// else 1.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return 1
}

// Call sends r to the Emperor at the socket and calls each with every Reply
// but the last. The error is nil if the last said OK, what each returned if it
// returned an error (the rest is then not waited for), and otherwise an
// *Error: 64 the request is wrong, 66 no such vassal, 69 no Emperor, 75 timed
// out, 77 not permitted, 1 it failed. r.V is set by Call.
func Call(ctx context.Context, socket string, r Request, each func(Reply) error) error {
	return CallWith(ctx, socket, r, nil, each)
}

// CallWith is Call with descriptors that go with the request. They stay the
// caller's.
func CallWith(ctx context.Context, socket string, r Request, files []*os.File, each func(Reply) error) error {
	conn, err := dial(ctx, socket)
	if err != nil {
		return dialError(socket, err)
	}
	defer conn.Close()
	return talk(ctx, conn.(*net.UnixConn), r, files, each)
}

// dial connects to the control socket, or, where that is not for this user, to
// the one for users beside it.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if dir := filepath.Dir(socket); errors.Is(err, fs.ErrPermission) && socket == Socket(dir) {
		if conn, users := d.DialContext(ctx, "unix", UsersSocket(dir)); !errors.Is(users, fs.ErrNotExist) {
			return conn, users
		}
	}
	return conn, err
}

// talk is Call over an open connection.
func talk(ctx context.Context, conn *net.UnixConn, r Request, files []*os.File, each func(Reply) error) error {
	r.V = Version
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(line) >= MaxRequest {
		return fail(64, vassal.CodeBadRequest, "the request is too long", fmt.Sprintf("%d bytes, at most %d fit: a shorter --page, fewer names", len(line), MaxRequest-1))
	}
	// The server ends it in time; this is for one that does not.
	patience := cmp.Or(r.Timeout, DefaultTimeout) + 2*ReplyTime
	if r.Verb != Enter { // that takes as long as somebody sits there
		conn.SetDeadline(time.Now().Add(patience))
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := send(conn, append(line, '\n'), files); err != nil && !errors.Is(err, syscall.EPIPE) {
		return lost(ctx, err)
	}
	in := bufio.NewScanner(conn)
	in.Buffer(make([]byte, 0, 64<<10), maxReply)
	for in.Scan() {
		if r.Timeout == 0 && r.Verb != Enter { // each vassal has its own time
			conn.SetReadDeadline(time.Now().Add(patience))
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		var rep Reply
		if err := json.Unmarshal(in.Bytes(), &rep); err != nil {
			return fail(69, vassal.CodeNoEmperor, "the Emperor's answer is not understood: "+err.Error(), "is it of another version? liege version")
		}
		if !rep.Done {
			if err := each(rep); err != nil {
				return err
			}
			continue
		}
		if rep.OK {
			if rep.Version != "" {
				return each(rep)
			}
			return nil
		}
		if rep.Problem != nil {
			return &Error{Code: rep.Code, Problem: *rep.Problem}
		}
		return &Error{Code: rep.Code, Said: true, Problem: vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotDone, Message: "not everything was done"}}
	}
	return lost(ctx, in.Err())
}

func dialError(socket string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fail(77, vassal.CodeNotPermitted, "not permitted to use "+socket, "sudo, or be in the control group")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fail(69, vassal.CodeNoEmperor, "no Emperor at "+socket, "is it running? systemctl status liege; another --run-dir?")
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.EAGAIN):
		return fail(75, vassal.CodeTimedOut, "the Emperor is busy", "try again in a moment")
	}
	return fail(69, vassal.CodeNoEmperor, "no Emperor at "+socket+": "+err.Error(), "")
}

func lost(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail(75, vassal.CodeTimedOut, "the Emperor did not answer in time", "")
	}
	return fail(69, vassal.CodeNoEmperor, "the Emperor went away before it answered", "")
}

func fail(code int, word, message, hint string) *Error {
	return &Error{Code: code, Problem: vassal.Problem{Severity: vassal.Error, Code: word, Message: message, Hint: hint}}
}

// noSuch is the Reply about a name that no vassal has.
func noSuch(name string) Reply {
	return Reply{Name: name, Code: 66, Text: name + ": no such vassal",
		Problem: &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoSuchVassal, Message: "no such vassal: " + clip(name), Hint: "liege ls"}}
}
