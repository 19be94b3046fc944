package route

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// dateFormat is that of HTTP dates (RFC 9110 5.6.7).
const dateFormat = "Mon, 02 Jan 2006 15:04:05 GMT"

// Var implements route.Values. A rule sees the path that files and programs are
// found by, however the client wrote it: exchange.Request.Path.
func (x *run) Var(name string) string {
	if name == "PATH_INFO" {
		return x.r.Path()
	}
	return x.r.Get(name)
}

// Capture implements route.Values: $0 is the whole match, with or without
// groups.
func (x *run) Capture(n int) string {
	if 2*n+1 >= len(x.groups) || x.groups[2*n] < 0 {
		return ""
	}
	return x.matched[x.groups[2*n]:x.groups[2*n+1]]
}

// Func implements route.Values.
func (x *run) Func(fn, arg string) string {
	switch fn {
	case "cookie":
		return cookie(x.r.Get("HTTP_COOKIE"), arg)
	case "qs":
		return query(x.r.Get("QUERY_STRING"), arg)
	case "mime":
		return x.h.files.Type(x.Var(arg))
	case "time":
		if arg == "micros" {
			return strconv.FormatInt(time.Now().UnixMicro(), 10)
		}
		return strconv.FormatInt(time.Now().Unix(), 10)
	case "httptime":
		return httpTime(time.Now().Unix() + number(arg))
	case "uwsgi":
		return x.own(arg)
	case "base64":
		return base64.StdEncoding.EncodeToString([]byte(x.Var(arg)))
	case "hex":
		return hex.EncodeToString([]byte(x.Var(arg)))
	case "upper":
		return strings.ToUpper(x.Var(arg))
	case "lower":
		return strings.ToLower(x.Var(arg))
	case "metric":
		if n, ok := x.h.cfg.Metrics.Get(arg); ok {
			return format(n)
		}
	}
	return ""
}

func httpTime(unix int64) string { return time.Unix(unix, 0).UTC().Format(dateFormat) }

// own is what ${uwsgi[…]} says.
func (x *run) own(what string) string {
	switch what {
	case "wid":
		return strconv.Itoa(x.r.Info.Worker)
	case "pid":
		if x.r.Info.PID > 0 {
			return strconv.Itoa(x.r.Info.PID)
		}
		return strconv.Itoa(os.Getpid())
	case "uuid":
		return uuid()
	case "status":
		return x.statusText()
	case "rtime":
		return strconv.FormatInt(time.Since(x.r.Start).Microseconds(), 10)
	case "lq":
		return strconv.Itoa(x.h.cfg.Stats().Queued)
	case "rsize":
		return strconv.FormatInt(x.r.Info.Bytes, 10)
	case "sor":
		return strconv.FormatInt(x.r.Start.UnixMicro(), 10)
	}
	return ""
}

// statusText is the status of the answer, 500 before there is one, as in
// uWSGI.
func (x *run) statusText() string {
	if x.status == 0 {
		return "500"
	}
	return strconv.Itoa(x.status)
}

// uuid is a random one (RFC 9562 5.4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// cookie finds the raw value of a cookie.
func cookie(cookies, name string) string {
	for c := range strings.SplitSeq(cookies, ";") {
		if k, v, ok := strings.Cut(strings.TrimLeft(c, " "), "="); ok && k == name {
			return v
		}
	}
	return ""
}

// query finds the raw value of an item of a query string.
func query(qs, name string) string {
	for item := range strings.SplitSeq(qs, "&") {
		if k, v, _ := strings.Cut(item, "="); k == name {
			return v
		}
	}
	return ""
}

// number reads what strtol(3) reads: blanks, a sign, digits; 0 without any.
// What does not fit is the largest number.
func number(s string) int64 {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	neg := strings.HasPrefix(s, "-")
	if neg || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	var n int64
	for i := 0; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		if n > (1<<62)/10 {
			n = 1 << 62
			break
		}
		n = n*10 + int64(s[i]-'0')
	}
	if neg {
		return -n
	}
	return n
}
