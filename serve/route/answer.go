package route

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"liege/serve/exchange"
)

// run is one request's way through the rules, and the Response that everything
// behind them writes to.
//
// Head may be called by the goroutine of a worker's lane while the goroutine
// of the connection waits in Serve; never by both.
type run struct {
	h   *Handler
	ctx context.Context
	r   *exchange.Request
	w   exchange.Response

	subjects [len(names)]string
	have     uint16 // which of subjects are known
	matched  string
	groups   []int
	jump     int // a pending goto

	status  int
	add     []exchange.Field // addheader
	remove  []string         // delheader
	cleared statusLine       // clearheaders
	prefix  []byte           // send
	ending  ending           // what answers in place of the rest

	headed     bool // the head has gone to w
	drop       bool // what is written is not wanted
	noErrors   bool // error rules have run for their last time
	noResponse bool // response rules have run
	paged      bool // an error page was tried
	keep       keeping
	pack       bool // the body is to be compressed
	zip        *gzip.Writer
	fields     []exchange.Field
}

// statusLine is a status with its reason; zero: none.
type statusLine struct {
	code   int
	reason string
}

// ending answers a request in place of what would have.
type ending func(x *run) error

func (x *run) begin(ctx context.Context, r *exchange.Request, w exchange.Response) {
	x.ctx, x.r, x.w = ctx, r, w
}

// end forgets the request; what it allocated is kept where it is small.
func (x *run) end() {
	clear(x.fields)
	clear(x.add)
	*x = run{h: x.h, fields: x.fields[:0], add: x.add[:0], remove: x.remove[:0], prefix: x.prefix[:0]}
	if cap(x.prefix) > 4<<10 {
		x.prefix = nil
	}
}

// answer ends the request as a rule said.
func (x *run) answer() error {
	end := x.ending
	x.ending = nil
	if end == nil {
		return nil
	}
	return end(x)
}

// maxAnswers is how often one answer can take the place of another: that of an
// error rule, that of a response rule, and an error page for each.
const maxAnswers = 5

// complete answers what rules put in place of the answer, and turns an error
// of the handlers into a page that rules see.
func (x *run) complete(err error) error {
	for range maxAnswers {
		if x.ending != nil {
			if err != nil {
				x.r.Info.Err = err
			}
			x.drop = false
			err = x.answer()
			continue
		}
		e, ok := errors.AsType[*exchange.StatusError](err)
		if !ok || x.headed || x.paged || !x.pages() {
			break
		}
		x.r.Info.Err = err
		x.paged = true
		err = x.page(e)
	}
	return err
}

// pages reports whether anybody here cares what an error page looks like; if
// not, the front makes it.
func (x *run) pages() bool {
	h := x.h
	return len(h.errors.rules)+len(h.response.rules)+len(h.add)+len(h.remove)+len(x.add)+len(x.remove) > 0
}

// page answers with an error page such as the front makes.
func (x *run) page(e *exchange.StatusError) error {
	text := strconv.Itoa(e.Status) + " " + exchange.Reason(e.Status) + "\n"
	fields := []exchange.Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}, {Name: "Content-Length", Value: strconv.Itoa(len(text))}}
	if e.RetryAfter > 0 {
		fields = append(fields, exchange.Field{Name: "Retry-After", Value: strconv.Itoa(int((e.RetryAfter + time.Second - 1) / time.Second))})
	}
	return x.text(e.Status, "", fields, text)
}

// text answers with a short body.
func (x *run) text(status int, reason string, fields []exchange.Field, body string) error {
	if err := x.Head(status, reason, fields); err != nil {
		return err
	}
	_, err := io.WriteString(x, body)
	return err
}

// Head implements exchange.Response: the rules about an answer run here.
func (x *run) Head(status int, reason string, fields []exchange.Field) error {
	x.status = status
	h := x.h
	if len(h.errors.rules) > 0 && !x.noErrors {
		x.noErrors = true
		if x.apply(&h.errors) == stop {
			x.drop = true
			return nil
		}
		x.noErrors = false
	}
	x.fields = append(x.fields[:0], fields...)
	x.collect()
	if len(h.response.rules) > 0 && !x.noResponse {
		x.noResponse, x.cleared = true, statusLine{}
		if x.apply(&h.response) == stop {
			x.drop = true
			return nil
		}
	}
	if c := x.cleared; c.code != 0 {
		status, reason = c.code, c.reason
		x.status = status
		x.keepLength()
	}
	return x.head(status, reason)
}

// head sends the head, and what rules put before the body.
func (x *run) head(status int, reason string) error {
	x.strip()
	x.fields = append(append(x.fields, x.h.add...), x.add...)
	n := len(x.prefix)
	if status == 204 || status == 304 {
		n = 0
	}
	if n > 0 {
		x.lengthen(int64(n))
	}
	x.headed = true
	if x.keep.on {
		x.keeps()
	}
	if x.pack {
		x.compress(status)
	}
	if err := x.w.Head(status, reason, x.fields); err != nil {
		return err
	}
	if n > 0 {
		if x.keep.on {
			x.keep.write(x.prefix)
		}
		_, err := x.emit(x.prefix)
		return err
	}
	return nil
}

// collect keeps fields in variables.
func (x *run) collect() {
	if len(x.h.collect) == 0 {
		return
	}
	kept := x.fields[:0]
	for _, f := range x.fields {
		pull := false
		for i := range x.h.collect {
			if c := &x.h.collect[i]; strings.EqualFold(f.Name, c.Name) {
				x.set(c.Var, f.Value)
				pull = pull || c.Pull
			}
		}
		if !pull {
			kept = append(kept, f)
		}
	}
	x.fields = kept
}

// strip takes out the fields that nobody may see.
func (x *run) strip() {
	if len(x.h.remove)+len(x.remove) == 0 {
		return
	}
	kept := x.fields[:0]
	for _, f := range x.fields {
		if !named(f.Name, x.h.remove) && !named(f.Name, x.remove) {
			kept = append(kept, f)
		}
	}
	x.fields = kept
}

func named(name string, list []string) bool {
	for _, n := range list {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// keepLength takes all fields out but the one that says where the body ends.
func (x *run) keepLength() {
	kept := x.fields[:0]
	for _, f := range x.fields {
		if strings.EqualFold(f.Name, "Content-Length") {
			kept = append(kept, f)
		}
	}
	x.fields = kept
}

func (x *run) lengthen(n int64) {
	for i := range x.fields {
		if f := &x.fields[i]; strings.EqualFold(f.Name, "Content-Length") {
			if was, err := strconv.ParseInt(f.Value, 10, 64); err == nil {
				f.Value = strconv.FormatInt(was+n, 10)
			}
		}
	}
}

// Write implements exchange.Response.
func (x *run) Write(p []byte) (int, error) {
	if x.drop {
		return len(p), nil
	}
	if x.keep.on {
		x.keep.write(p)
	}
	return x.emit(p)
}

// emit sends bytes of the body.
func (x *run) emit(p []byte) (int, error) {
	if x.zip != nil {
		return x.zip.Write(p)
	}
	return x.w.Write(p)
}

// Flush implements exchange.Response.
func (x *run) Flush() error {
	if x.drop {
		return nil
	}
	if x.zip != nil {
		if err := x.zip.Flush(); err != nil {
			return err
		}
	}
	return x.w.Flush()
}

// File implements exchange.Response.
func (x *run) File(f exchange.File, off, n int64) error {
	if x.drop {
		return nil
	}
	x.keep.spoil() // as in uWSGI files are not kept
	x.keep.sent += n
	if x.zip != nil {
		m, err := io.Copy(x.zip, io.NewSectionReader(f, off, n))
		if err == nil && m < n {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return x.w.File(f, off, n)
}

// Started implements exchange.Response.
func (x *run) Started() bool { return x.w.Started() }

// Close implements io.Closer, for a Write that is pending: see
// exchange.Response.
func (x *run) Close() error {
	if c, ok := x.w.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Trailers implements exchange.Trailerer.
func (x *run) Trailers(fields []exchange.Field) {
	if !x.drop {
		exchange.SendTrailers(x.w, fields)
	}
}

// Inform implements exchange.Informer.
func (x *run) Inform(status int, fields []exchange.Field) {
	exchange.SendInformational(x.w, status, fields)
}

// Watch implements exchange.Watcher.
func (x *run) Watch(left func()) (stop func()) { return exchange.Watch(x.w, left) }

// Tunnel implements exchange.Tunneler. Rules about answers do not concern what
// is no HTTP answer.
func (x *run) Tunnel(status int, reason string, fields []exchange.Field) (exchange.Stream, error) {
	t, ok := x.w.(exchange.Tunneler)
	if !ok {
		return nil, &exchange.StatusError{Status: 501, Err: errors.New("this listener's connections cannot become tunnels")}
	}
	x.status, x.headed = status, true
	x.keep.spoil()
	return t.Tunnel(status, reason, fields)
}
