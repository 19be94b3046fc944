package proxy

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestH2CMetadata: metadata of a gRPC call keeps its names, which no variable
// can hold; what could pass for a field of ours, and what is of no such call, is
// not sent on.
func TestH2CMetadata(t *testing.T) {
	addr, _ := h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["answer_id.v1"] = []string{"a"}
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			fmt.Fprintf(w, "%s=%s ", name, strings.Join(r.Header[name], "+"))
		}
	}))
	base, client := h2cFront(t, newPatient(t, 30*time.Second), addr)
	for kind, want := range map[string]string{
		"application/grpc+proto": "Accept-Encoding=x Content-Type=application/grpc+proto Request_id=1 Shop.item_no-Bin=AAE= Trace.id=a+b X-Own=o ",
		"text/plain":             "Accept-Encoding=x Content-Type=text/plain X-Own=o ",
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", base+"/", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Content-Type": {kind}, "User-Agent": {""}, "Accept-Encoding": {"x"}, "X-Own": {"o"}, "x_own": {"another"}, "request_id": {"1"},
			"trace.id": {"a", "b"}, "shop.item_no-bin": {"AAE="}, "x_forwarded_for": {"192.0.2.7"}, "x.real.ip": {"192.0.2.7"}}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		got := strings.ReplaceAll(string(b), "Content-Length=1 ", "")
		got = regexp.MustCompile("X-Forwarded-For=[0-9.]+ ").ReplaceAllString(got, "")
		if err != nil || got != want || res.Header.Get("Answer_id.v1") != "a" {
			t.Errorf("%s: %q %v %v, want %q", kind, got, err, res.Header, want)
		}
	}
}
