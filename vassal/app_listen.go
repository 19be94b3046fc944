package vassal

import "time"

// Modifiers says which handlers requests of the uwsgi protocol may ask for.
type Modifiers struct {
	Allowed []uint8    `json:"allowed,omitempty"` // allowed-modifiers; empty: all that exist
	Remap   [][2]uint8 `json:"remap,omitempty"`   // remap-modifier: the first means the second
}

// FrontOptions are what else the HTTP front does.
type FrontOptions struct {
	Vars       []string       `json:"vars,omitempty"`        // http-var, K=V, for http listeners
	ServerName bool           `json:"server_name,omitempty"` // http-server-name-as-http-host
	AutoGzip   bool           `json:"auto_gzip,omitempty"`   // http-auto-gzip
	Pages      map[int][]Page `json:"pages,omitempty"`       // error-page-403 and the like, by status: the first that is there
}

// Page is a file that is sent for an error.
type Page struct {
	File string `json:"file"`
	At   Origin `json:"at"`
	Key  string `json:"key"`
}

// Forward says that http listeners send all requests on: uWSGI's http-to.
type Forward struct {
	To       []string      `json:"to,omitempty"`       // http-to: used in turn
	Fallback []string      `json:"fallback,omitempty"` // http-fallback: where none of To can be reached
	HTTP     bool          `json:"http,omitempty"`     // http-backend-http; else the uwsgi protocol
	Modifier [2]uint8      `json:"modifier"`           // http-modifier1, http-modifier2
	Grace    time.Duration `json:"grace,omitempty"`    // http-gracetime: for how long one that could not be reached is left alone
	Connect  time.Duration `json:"connect,omitempty"`  // http-connect-timeout
	At       Origin        `json:"at"`
}

// Sockets is what the kernel is told about sockets. Zero: nothing.
type Sockets struct {
	SendBuffer    int  `json:"send_buffer,omitempty"`    // socket-sndbuf, bytes, of every connection
	ReceiveBuffer int  `json:"receive_buffer,omitempty"` // socket-rcvbuf
	Freebind      bool `json:"freebind,omitempty"`       // an address may be one that the host does not have (yet)
}

// Upload says how much of a request's body is there before a worker is asked.
// By default what fits into a little memory.
type Upload struct {
	Stream bool  `json:"stream,omitempty"` // post-buffering = 0: nothing of it
	Store  bool  `json:"store,omitempty"`  // post-buffering: all of it, in a file if it is large
	Space  int64 `json:"space,omitempty"`  // post-buffering-space: most bytes in files, all together; PHP's of unknown length too
}
