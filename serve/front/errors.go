package front

import (
	"errors"
	"strconv"
	"time"

	"liege/serve/exchange"
)

// A refusal is a request that is not served: its status and, in words that
// hold nothing of the client's, why. The text is sent to the client.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// What is wrong with a request. The connection is closed after each: where
// the next request begins is not known.
var (
	errRequestLine      = &refusal{400, "malformed request line"}
	errMethod           = &refusal{400, "invalid method"}
	errTarget           = &refusal{400, "invalid request target"}
	errBareLF           = &refusal{400, "line does not end in CR LF"}
	errField            = &refusal{400, "malformed field"}
	errFieldName        = &refusal{400, "invalid field name"}
	errFieldValue       = &refusal{400, "invalid byte in a field value"}
	errFold             = &refusal{400, "folded field line"}
	errNoHost           = &refusal{400, "no Host field"}
	errTwoHosts         = &refusal{400, "more than one Host field"}
	errHost             = &refusal{400, "invalid Host field"}
	errHostConflict     = &refusal{400, "Host field differs from the request target"}
	errTwoLengths       = &refusal{400, "more than one Content-Length"}
	errLength           = &refusal{400, "invalid Content-Length"}
	errBothLengths      = &refusal{400, "both Content-Length and Transfer-Encoding"}
	errTransferEncoding = &refusal{400, "invalid Transfer-Encoding"}
	errChunk            = &refusal{400, "malformed chunked body"}
	errCutBody          = &refusal{400, "the request body ended too early"}
	errPath             = &refusal{400, "invalid path"}
	errTimeout          = &refusal{408, "the request did not arrive in time"}
	errBodyTimeout      = &refusal{408, "the request body did not arrive in time"}
	errBodyLarge        = &refusal{413, "the request body is too large"}
	errLongTarget       = &refusal{414, "the request line is too long"}
	errExpect           = &refusal{417, "unknown expectation"}
	errLargeHead        = &refusal{431, "the request header is too large"}
	errManyFields       = &refusal{431, "too many header fields"}
	errConnect          = &refusal{501, "CONNECT is not supported"}
	errCoding           = &refusal{501, "unsupported transfer coding"}
	errVersion          = &refusal{505, "use HTTP/1.1"}
)

// Errors of Response and of Request.Body towards a backend.
var (
	errClientGone = errors.New("the client closed the connection")
	errBodyClosed = errors.New("the request body is closed")
	errNoHead     = errors.New("answer without a head")
	errTwoHeads   = errors.New("second head of an answer")
	errLongBody   = errors.New("answer is longer than its Content-Length")
	errShortBody  = errors.New("answer is shorter than its Content-Length")
	errNoAnswer   = errors.New("no answer")
	errFileShrank = errors.New("the file became shorter while it was sent")
)

// bad is an answer of a backend that cannot be sent: 502 to the client.
func bad(err error) error { return &exchange.StatusError{Status: 502, Err: err} }

// statusOf is the status to answer for err, with the text that may be shown.
func statusOf(err error) (status int, text string) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status, r.text
	}
	return exchange.StatusOf(err), ""
}

// errorAnswer is what a client gets for err; refused: its request was at
// fault.
func (s *Server) errorAnswer(err error) (status int, page string, fields []exchange.Field, refused bool) {
	status, text := statusOf(err)
	page = strconv.Itoa(status) + " " + exchange.Reason(status)
	if text != "" {
		page += ": " + text
	}
	page += "\n"
	kind := "text/plain; charset=utf-8"
	if own := s.cfg.Pages[status]; own != nil && text == "" {
		page, kind = string(own), "text/html"
	}
	fields = append(make([]exchange.Field, 0, 3), exchange.Field{Name: "Content-Type", Value: kind},
		exchange.Field{Name: "Content-Length", Value: strconv.Itoa(len(page))})
	if d := retryAfter(err); d > 0 {
		fields = append(fields, exchange.Field{Name: "Retry-After", Value: strconv.Itoa(int((d + time.Second - 1) / time.Second))})
	}
	return status, page, fields, text != ""
}
