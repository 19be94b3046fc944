package route

import (
	"strings"

	"liege/serve/exchange"
	"liege/serve/static"
)

// gzipAction compresses the body of the answer, if the client takes that and
// nobody has encoded it. uWSGI does it without asking the client.
func gzipAction(*rl) (act, error) {
	return func(x *run) verdict { x.pack = true; return next }, nil
}

// compress changes the head of an answer whose body will be compressed.
func (x *run) compress(status int) {
	if status == 204 || status == 206 || status == 304 {
		return
	}
	for _, f := range x.fields {
		if strings.EqualFold(f.Name, "Content-Encoding") || strings.EqualFold(f.Name, "Content-Range") {
			return
		}
	}
	x.fields = append(x.fields, exchange.Field{Name: "Vary", Value: "Accept-Encoding"})
	if !static.Accepts(x.r.Get("HTTP_ACCEPT_ENCODING"), "gzip") {
		return
	}
	if x.r.Get("REQUEST_METHOD") != "HEAD" {
		if x.zip = x.h.cfg.Compressors.Gzip(x.w); x.zip == nil {
			return // all are lent
		}
	}
	kept := x.fields[:0]
	for _, f := range x.fields {
		switch {
		case strings.EqualFold(f.Name, "Content-Length"), strings.EqualFold(f.Name, "Accept-Ranges"):
			continue
		case strings.EqualFold(f.Name, "ETag") && !strings.HasPrefix(f.Value, "W/"): // RFC 9110 8.8.3
			f.Value = "W/" + f.Value
		}
		kept = append(kept, f)
	}
	x.fields = append(kept, exchange.Field{Name: "Content-Encoding", Value: "gzip"})
}

// unzip ends the compressed body, if there is one.
func (x *run) unzip(err error) error {
	if x.zip == nil {
		return err
	}
	if err == nil {
		err = x.zip.Close()
	}
	x.h.cfg.Compressors.Return(x.zip)
	x.zip = nil
	return err
}
