package front

// known identifies a field name that the front or the mapping to CGI
// variables treats in a way of its own, or that is frequent.
type known uint8

// Special names first, then those that never become a variable, then
// frequent ones.
const (
	hOther known = iota
	hContentLength
	hContentType
	hTransferEncoding
	hHost
	hExpect
	hTE
	hConnection
	hCookie
	hUpgrade // HTTP_UPGRADE where the connection may be upgraded
	hDropped // hop by hop, or dangerous: never a variable
	hNormal  // HTTP_* by the table
)

// knownName is one field name of the table.
type knownName struct {
	kind known
	vari string // the CGI variable; empty: none
}

// names is the table of field names, in lower case. Dropped are what concerns
// one connection only (RFC 9110 7.6.1), and Proxy, which as HTTP_PROXY would
// tell the app's own HTTP client where to connect (CVE-2016-5385).
var names = map[string]knownName{
	"content-length":      {hContentLength, "CONTENT_LENGTH"},
	"content-type":        {hContentType, "CONTENT_TYPE"},
	"transfer-encoding":   {hTransferEncoding, ""},
	"host":                {hHost, "HTTP_HOST"},
	"expect":              {hExpect, ""},
	"connection":          {hConnection, ""},
	"cookie":              {hCookie, "HTTP_COOKIE"},
	"keep-alive":          {hDropped, ""},
	"proxy-connection":    {hDropped, ""},
	"te":                  {hTE, ""},
	"trailer":             {hDropped, ""},
	"upgrade":             {hUpgrade, ""},
	"http2-settings":      {hDropped, ""},
	"proxy":               {hDropped, ""},
	"accept":              {hNormal, "HTTP_ACCEPT"},
	"accept-charset":      {hNormal, "HTTP_ACCEPT_CHARSET"},
	"accept-encoding":     {hNormal, "HTTP_ACCEPT_ENCODING"},
	"accept-language":     {hNormal, "HTTP_ACCEPT_LANGUAGE"},
	"authorization":       {hNormal, "HTTP_AUTHORIZATION"},
	"cache-control":       {hNormal, "HTTP_CACHE_CONTROL"},
	"dnt":                 {hNormal, "HTTP_DNT"},
	"forwarded":           {hNormal, "HTTP_FORWARDED"},
	"if-match":            {hNormal, "HTTP_IF_MATCH"},
	"if-modified-since":   {hNormal, "HTTP_IF_MODIFIED_SINCE"},
	"if-none-match":       {hNormal, "HTTP_IF_NONE_MATCH"},
	"if-range":            {hNormal, "HTTP_IF_RANGE"},
	"if-unmodified-since": {hNormal, "HTTP_IF_UNMODIFIED_SINCE"},
	"origin":              {hNormal, "HTTP_ORIGIN"},
	"pragma":              {hNormal, "HTTP_PRAGMA"},
	"priority":            {hNormal, "HTTP_PRIORITY"},
	"range":               {hNormal, "HTTP_RANGE"},
	"referer":             {hNormal, "HTTP_REFERER"},
	"sec-ch-ua":           {hNormal, "HTTP_SEC_CH_UA"},
	"sec-ch-ua-mobile":    {hNormal, "HTTP_SEC_CH_UA_MOBILE"},
	"sec-ch-ua-platform":  {hNormal, "HTTP_SEC_CH_UA_PLATFORM"},
	"sec-fetch-dest":      {hNormal, "HTTP_SEC_FETCH_DEST"},
	"sec-fetch-mode":      {hNormal, "HTTP_SEC_FETCH_MODE"},
	"sec-fetch-site":      {hNormal, "HTTP_SEC_FETCH_SITE"},
	"sec-fetch-user":      {hNormal, "HTTP_SEC_FETCH_USER"},
	"user-agent":          {hNormal, "HTTP_USER_AGENT"},
	"via":                 {hNormal, "HTTP_VIA"},
	"x-forwarded-for":     {hNormal, "HTTP_X_FORWARDED_FOR"},
	"x-forwarded-host":    {hNormal, "HTTP_X_FORWARDED_HOST"},
	"x-forwarded-proto":   {hNormal, "HTTP_X_FORWARDED_PROTO"},
	"x-real-ip":           {hNormal, "HTTP_X_REAL_IP"},
	"x-requested-with":    {hNormal, "HTTP_X_REQUESTED_WITH"},

	"upgrade-insecure-requests": {hNormal, "HTTP_UPGRADE_INSECURE_REQUESTS"},
}

// lookup returns what is known of a field name. It does not allocate.
func lookup(name string) known { k, _ := lookupVar(name); return k }

// lookupVar is lookup with the name of the variable.
func lookupVar(name string) (known, string) {
	var buf [32]byte
	if len(name) > len(buf) {
		return hOther, ""
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		buf[i] = c
	}
	n := names[string(buf[:len(name)])]
	return n.kind, n.vari
}

// variable returns the CGI variable for a field name that is not in the
// table: "" for one with any byte but letters, digits and "-". With "_" let
// through, X_Real-IP and X-Real-IP would be one variable, and whoever checks
// or sets the one field in front of us is passed by with the other
// (CVE-2015-7519).
func variable(name string) string {
	for i := range len(name) {
		c := name[i]
		if !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' {
			return ""
		}
	}
	b := make([]byte, 0, 64)
	b = append(b, "HTTP_"...)
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '-':
			c = '_'
		case c >= 'a':
			c -= 'a' - 'A'
		}
		b = append(b, c)
	}
	return string(b)
}
