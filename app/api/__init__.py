"""HTTP only: routers, schemas, problem+json errors."""
