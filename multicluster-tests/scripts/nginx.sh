#!/bin/sh
# nginx.sh <directory> <host>:<port> [<directives of the server> [<words of listen>]]: an nginx that serves the directory.
set -eu
mkdir -p "$1/nginx"
cat > "$1/nginx/$2.conf" <<CONF
daemon off;
master_process off;
pid $1/nginx/$2.pid;
events {}
http {
  access_log off;
  client_body_temp_path $1/nginx/body;
  proxy_temp_path $1/nginx/proxy;
  fastcgi_temp_path $1/nginx/fastcgi;
  uwsgi_temp_path $1/nginx/uwsgi;
  scgi_temp_path $1/nginx/scgi;
  server {
    listen $2 ${4:-};
    ${3:-}
    location / { root $1; }
    location /who { return 200 "nginx over \$server_protocol \$ssl_server_name for \$http_x_forwarded_client_cert"; }
  }
}
CONF
exec nginx -e stderr -p "$1" -c "$1/nginx/$2.conf"
