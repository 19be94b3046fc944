package proxy

import (
	"net/http"
	"strings"

	"liege/serve/exchange"
)

// addMetadata adds to h the fields of a gRPC call that no variable can carry:
// the names of its metadata may have "_" and "." in them.
//
// To any other server such a field is not sent on: many make "_" of "-", and
// then whoever checks or sets X-Real-IP in front of them is passed by with
// X_Real-IP (CVE-2015-7519). To be safe with a gRPC server behind which one of
// those sits, one that would be the same variable as a field that is sent, or
// as those by which proxies tell of the client, is left out.
func addMetadata(h http.Header, r *exchange.Request) {
	if !strings.HasPrefix(r.Get("CONTENT_TYPE"), "application/grpc") {
		return
	}
	for _, f := range r.Header {
		if !strings.ContainsAny(f.Name, "_.") || !metadata(f.Name) || !valid(f.Value) {
			continue
		}
		name := strings.ToLower(f.Name)
		twin := twinOf(name)
		if r.Get(twin) == "" && !ofProxies(twin) {
			h[name] = append(h[name], f.Value)
		}
	}
}

// metadata reports whether name may be one of gRPC's, but for capitals, which
// HTTP/2 knows not.
func metadata(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// twinOf is the variable that a careless server makes of a field.
func twinOf(name string) string {
	return "HTTP_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(name))
}

// ofProxies reports whether a variable tells of the client, of its connection,
// or of where a body ends.
func ofProxies(variable string) bool {
	switch rest := strings.TrimPrefix(variable, "HTTP_"); rest {
	case "X_REAL_IP", "FORWARDED", "PROXY", "CONTENT_LENGTH", "CONTENT_TYPE", "TRANSFER_ENCODING", "KEEP_ALIVE", "PROXY_CONNECTION":
		return true
	default:
		return strings.HasPrefix(rest, "X_FORWARDED_")
	}
}
