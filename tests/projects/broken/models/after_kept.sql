select number from {{ ref('kept') }}
